/* A row of logits together with its changes: a mask, and tokens with bias and penalties. The row
 * itself is never written to, and is not copied if that can be avoided. */
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
    og_history *touched;  /* its adjusted logits replace the row's; NULL for none */
    int32_t n;
} og_view;

/* Whether a mask, or NULL, allows a token. */
static inline bool og_mask_allows(const uint32_t *mask, int32_t token) {
    return mask == NULL || (mask[token / OG_MASK_WORD] >> (token % OG_MASK_WORD) & 1u);
}

/* Write the row with all changes applied. O(n). */
void og_view_copy(const og_view *v, float *row);

/* Return the largest logit. block_max must hold the block maxima of the original row. It becomes an
 * upper bound of each block's logits after mask, bias and penalties, and no bound exceeds the
 * largest logit: a block whose bound could is computed exactly, mostly one block or two.
 * adjusted_max: scratch, og_blocks(v->n). O(blocks + touched), and O(n) at worst. */
float og_view_max(const og_view *v, const og_kernels *kernels, float *block_max,
                  float *adjusted_max);

/* Return the lowest id whose logit is max, the largest. block_max is as og_view_max left it.
 * O(blocks). */
int32_t og_view_argmax(const og_view *v, const float *block_max, float max);

#endif
