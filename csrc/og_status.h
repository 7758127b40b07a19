/* Return codes. 0 is success; a function that fails changes nothing except scratch memory. */
#ifndef OG_STATUS_H
#define OG_STATUS_H

enum og_status {
    OG_OK = 0,
    OG_ERR_NAN = 1,          /* a logit of the row is NaN */
    OG_ERR_INFINITE = 2,     /* a logit of the row, or a biased one, is +infinity */
    OG_ERR_NO_CANDIDATE = 3, /* every token is at -infinity or masked out */
};

#endif
