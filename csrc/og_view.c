#include "og_view.h"

#include <math.h>
#include <string.h>

void og_view_copy(const og_view *v, float *row) {
    memcpy(row, v->row, (size_t)v->n * sizeof *row);
    for (int32_t i = 0; v->mask != NULL && i < v->n; i++) {
        if (!og_mask_allows(v->mask, i)) row[i] = -INFINITY;
    }
    for (int32_t k = 0; v->touched != NULL && k < v->touched->n; k++) {
        row[v->touched->token[k]] = v->touched->adjusted[k];
    }
}

/* The largest of a block's logits that the mask allows and that are not touched. `first` is the
 * index of the block's first touched token. */
static float own_max(const og_kernels *kernels, const og_view *v, int32_t block, int32_t first) {
    const int32_t start = block * OG_BLOCK;
    const int32_t length = v->n - start < OG_BLOCK ? v->n - start : OG_BLOCK;
    const float *row = v->row + start;
    const og_history *h = v->touched;
    float changed[OG_BLOCK], max;
    if (h != NULL && h->in_block[block] > 0) {
        memcpy(changed, row, (size_t)length * sizeof *changed);
        for (int32_t k = first; k < first + h->in_block[block]; k++) {
            changed[h->token[k] - start] = -INFINITY;
        }
        row = changed;
    }
    kernels->scan(row, v->mask == NULL ? NULL : v->mask + start / OG_MASK_WORD, length, &max);
    return max;
}

float og_view_max(const og_view *v, const og_kernels *kernels, float *block_max,
                  float *adjusted_max) {
    const int32_t blocks = og_blocks(v->n);
    float best = -INFINITY;
    const og_history *h = v->touched;
    if (h != NULL) {
        /* They cannot contain NaN; the caller checks for +infinity. */
        kernels->scan(h->adjusted, NULL, h->n, adjusted_max);
        for (int32_t b = 0; b < og_blocks(h->n); b++) {
            if (adjusted_max[b] > best) best = adjusted_max[b];
        }
    }
    for (int32_t b = 0; v->mask == NULL && b < blocks; b++) {
        if ((h == NULL || h->in_block[b] == 0) && block_max[b] > best) best = block_max[b];
    }
    if (v->mask == NULL && h == NULL) return best;
    for (int32_t b = 0, first = 0; b < blocks; b++) {
        const int32_t touched = h == NULL ? 0 : h->in_block[b];
        if (block_max[b] > best && (touched > 0 || v->mask != NULL)) {
            block_max[b] = own_max(kernels, v, b, first);
            if (block_max[b] > best) best = block_max[b];
        }
        for (int32_t k = first; k < first + touched; k++) {
            if (h->adjusted[k] > block_max[b]) block_max[b] = h->adjusted[k];
        }
        first += touched;
    }
    return best;
}

int32_t og_view_argmax(const og_view *v, const float *block_max, float max) {
    const og_history *h = v->touched;
    int32_t candidate = INT32_MAX;
    for (int32_t k = 0; h != NULL && k < h->n && candidate == INT32_MAX; k++) {
        if (h->adjusted[k] == max) candidate = h->token[k];
    }
    const float *row = v->row;
    const int32_t n = v->n < candidate ? v->n : candidate;
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        if (block_max[start / OG_BLOCK] < max) continue;
        const int32_t end = n - start < OG_BLOCK ? n : start + OG_BLOCK;
        for (int32_t i = start; i < end; i++) {
            if (row[i] != max) continue;
            if (og_mask_allows(v->mask, i) && (h == NULL || og_history_find(h, i) < 0)) return i;
        }
    }
    return candidate;
}
