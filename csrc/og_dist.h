/* The distribution from which a token is drawn: weights, not normalised, in order of ids. */
#ifndef OG_DIST_H
#define OG_DIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_kernels.h"
#include "og_scratch.h"
#include "og_view.h"

typedef struct og_dist {
    float *weights;         /* n, padded */
    float *logits;          /* of the weights, if a step needs them; else NULL */
    int32_t *ids;           /* NULL if the ids are the indices */
    const float *block_top; /* upper bound of each block's weights, or NULL if unknown */
    int32_t n;
    float low;    /* only weights >= this count */
    float top;    /* the largest weight */
    double total; /* of the weights >= low; also by block */
    bool summed;  /* whether total and the sums of the blocks are up to date */
} og_dist;

/* Whether weight i counts. */
static inline bool og_dist_keeps(const og_dist *d, int32_t i) {
    return d->weights[i] >= d->low && d->weights[i] > 0.0f;
}

/* Compute the weight of every token of a view in the scratch: 2^((logit - max) * scale), with the
 * sums of the blocks and upper bounds of their weights. block_max in the scratch is as og_view_max
 * left it. O(n). */
og_dist og_dist_weigh(const og_kernels *kernels, const og_view *v, float max, float scale,
                      og_scratch *scratch);

/* Return the total of weights whose blocks have these sums. O(blocks). */
double og_dist_add_blocks(const double *block_sum, int32_t n);

/* Bring the total and the sums of the blocks up to date. O(n). */
void og_dist_sum(const og_kernels *kernels, og_dist *d, og_scratch *scratch);

/* Inverse CDF in order of ids: return the first index at which the running sum of the weights that
 * count exceeds u * total. Whole blocks are skipped by their sums, the same ones that made the
 * total. At least one weight counts; 0 <= u < 1. O(blocks). */
int32_t og_dist_draw(const og_dist *d, const double *block_sum, double u);

/* Entropy in bits of the softmax of a row; logits * scale are exponents to base two. O(n). */
double og_entropy_bits(const og_kernels *kernels, const float *logits, int32_t n, float max,
                       float scale);

#endif
