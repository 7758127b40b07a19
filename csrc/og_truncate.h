/* The truncation steps, as og_sampler.h defines them and in its order: top_n_sigma and top_k on the
 * logits, the others on the weights. */
#ifndef OG_TRUNCATE_H
#define OG_TRUNCATE_H

#include <stdint.h>

#include "og_dist.h"
#include "og_sampler.h"

/* Set the logits that top_n_sigma drops to -infinity. max: the row's largest logit. O(n). */
void og_row_top_n_sigma(const og_params *p, float max, float *row, int32_t n);

/* Weigh a modified copy of the row: all of it, or the k largest logits for 0 < k < n. The row may
 * be overwritten. O(n). */
og_dist og_dist_weigh_copy(const og_kernels *kernels, float *row, int32_t n, int32_t k, float max,
                           float scale, og_scratch *scratch);

/* Apply typical_p, top_p, min_p, p_less and xtc. O(n). */
void og_dist_truncate(const og_sampler *s, og_dist *d, float max, float scale, og_scratch *scratch);

#endif
