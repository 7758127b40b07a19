/* Rows of logits of all kinds, for tests. */
#ifndef ROWS_H
#define ROWS_H

#include <stdint.h>

enum row_kind {
    ROW_SMOOTH,  /* spread evenly */
    ROW_PEAKED,  /* a few tokens far above the others */
    ROW_TIED,    /* few different values */
    ROW_HOLES,   /* many at -infinity */
    ROW_EXTREME, /* zeros of both signs, denormals, the largest numbers, -infinity */
    ROW_ZEROS,   /* zeros of both signs above a few negative numbers */
    ROW_KINDS
};

/* Fill row[0..n-1]; no NaN, no +infinity, at least one finite value. */
void fill_row(enum row_kind kind, uint64_t *random, float *row, int32_t n);

/* Fill mask[0..(n+31)/32-1]; at least the token `always` is allowed. `density`: the number of
 * allowed tokens out of 8, 0..8. */
void fill_mask(uint64_t *random, uint32_t *mask, int32_t n, int density, int32_t always);

#endif
