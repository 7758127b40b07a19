/* What a function that can fail returns. 0 is success; nothing is written on failure. */
#ifndef OG_STATUS_H
#define OG_STATUS_H

enum og_status {
    OG_OK = 0,
    OG_ERR_NAN = 1,          /* a logit of the row is NaN */
    OG_ERR_INFINITE = 2,     /* a logit of the row, or a biased one, is +infinity */
    OG_ERR_NO_CANDIDATE = 3, /* every token is at -infinity or masked out */
};

#endif
