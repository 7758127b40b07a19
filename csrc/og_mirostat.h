/* Mirostat: truncation that steers the surprise of the sampled tokens to a target (Basu et al.
 * 2021, "Mirostat: a neural text decoding algorithm that directly controls perplexity"). */
#ifndef OG_MIROSTAT_H
#define OG_MIROSTAT_H

#include <stdint.h>

#include "og_dist.h"
#include "og_sampler.h"

/* Weigh a modified copy of the row and truncate it as s->mu says. max: the row's largest logit.
 * O(n). */
og_dist og_mirostat_weigh(const og_sampler *s, float *row, int32_t n, float max, float scale,
                          og_scratch *scratch);

/* Move s->mu by the surprise of a sampled token with `weight` of `total`. O(1). */
void og_mirostat_update(og_sampler *s, double total, double weight);

#endif
