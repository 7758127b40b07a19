/* A row of logits together with what changes it: a mask, and tokens with bias and penalties. The
 * row itself is never written to, and no copy of it is made where that can be avoided. */
#ifndef OG_VIEW_H
#define OG_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_history.h"
#include "og_kernels.h"

typedef struct og_view {
    const float *row;
    const uint32_t *mask; /* a bit for every allowed token; NULL allows all */
    og_history *touched;  /* its adjusted logits take the place of the row's; NULL for none */
    int32_t n;
} og_view;

/* Whether a mask, or NULL, allows a token. */
static inline bool og_mask_allows(const uint32_t *mask, int32_t token) {
    return mask == NULL || (mask[token / OG_MASK_WORD] >> (token % OG_MASK_WORD) & 1u);
}

/* Write the row with everything that changes it. O(n). */
void og_view_copy(const og_view *v, float *row);

/* The largest logit. block_max begins as the maxima of the row as it came and becomes what no logit
 * of a block exceeds with mask, bias and penalties, and none of them exceeds the largest: a block
 * in which that could be wrong is worked out. Mostly that is one block or two. adjusted_max:
 * scratch, og_blocks(v->n). O(blocks + touched), and O(n) at worst. */
float og_view_max(const og_view *v, const og_kernels *kernels, float *block_max,
                  float *adjusted_max);

/* The lowest id whose logit is max, the largest. block_max as og_view_max left it. O(blocks). */
int32_t og_view_argmax(const og_view *v, const float *block_max, float max);

#endif
