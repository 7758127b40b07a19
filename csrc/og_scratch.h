/* The memory that a draw works in. Its fields are private to the library. */
#ifndef OG_SCRATCH_H
#define OG_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_select.h"

/* Memory for one draw at a time. Samplers with the same n_vocab may share it, one after another. It
 * keeps the data of the last draw for og_sampler_logprobs and og_scratch_logprobs. */
typedef struct og_scratch {
    float *weights;    /* padded n_vocab */
    float *row;        /* padded n_vocab: a modified copy of the row; NULL if no sampler needs it */
    int32_t *ids;      /* as many as a list holds */
    float *raw_max;    /* og_blocks(n_vocab): maxima of the blocks of the original row */
    const float *raw;  /* original row of the last draw or score; only compared, never read */
    float *block_max;  /* og_blocks(n_vocab): bounds, with bias, mask and penalties */
    double *block_sum; /* og_blocks(n_vocab) */
    float *block_top;  /* og_padded(og_blocks(n_vocab)): upper bounds of the blocks' weights; before
                          the row is weighed, og_view_max uses it for maxima of touched tokens */
    og_lists lists;    /* lists.sums also receives sums that are not needed */
    /* The last draw: */
    bool greedy;
    const float *kept_weights;
    const int32_t *kept_ids; /* ids of the weights, NULL if they are the indices */
    int32_t kept_n;          /* number of weights */
    float kept_low;          /* weights >= this, and > 0, were candidates */
    float kept_weight;       /* weight of the sampled token */
    double kept_total;
} og_scratch;

/* Bytes of a scratch for rows of n_vocab, and its layout in that memory (aligned to OG_ALIGNMENT).
 * with_row: whether og_params_need_row is true for any sampler that uses it. */
size_t og_scratch_bytes(int32_t n_vocab, bool with_row);
void og_scratch_init(og_scratch *scratch, void *memory, int32_t n_vocab, bool with_row);

#endif
