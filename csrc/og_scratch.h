/* The memory that a draw works in. Its fields are the library's own. */
#ifndef OG_SCRATCH_H
#define OG_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_select.h"

/* Memory for one draw at a time. Samplers with the same n_vocab may share it, one after another; it
 * keeps what og_sampler_logprobs and og_scratch_logprobs want to know of the last draw. */
typedef struct og_scratch {
    float *weights;    /* padded n_vocab */
    float *row;        /* padded n_vocab: a changed copy of the row; NULL if no sampler needs one */
    int32_t *ids;      /* as many as a list holds */
    float *raw_max;    /* og_blocks(n_vocab): maxima of the blocks of the row as it came */
    const float *raw;  /* that row, of the last draw or score; only compared, never read */
    float *block_max;  /* og_blocks(n_vocab): bounds, with bias, mask and penalties */
    double *block_sum; /* og_blocks(n_vocab) */
    float *block_top;  /* og_padded(og_blocks(n_vocab)): what no weight of the block exceeds; until
                          the row is weighed, lent to og_view_max for those of touched tokens */
    og_lists lists;    /* lists.sums is also lent as the place of sums that nobody reads */
    /* The last draw. */
    bool greedy;
    const float *kept_weights;
    const int32_t *kept_ids; /* ids of the weights, NULL where they are their indices */
    int32_t kept_n;          /* weights */
    float kept_low;          /* those >= this, and > 0, were candidates */
    float kept_weight;       /* of the token that was drawn */
    double kept_total;
} og_scratch;

/* Bytes of a scratch for rows of n_vocab, and its laying out in that memory (aligned to
 * OG_ALIGNMENT). with_row: og_params_need_row of some sampler that uses it. */
size_t og_scratch_bytes(int32_t n_vocab, bool with_row);
void og_scratch_init(og_scratch *scratch, void *memory, int32_t n_vocab, bool with_row);

#endif
