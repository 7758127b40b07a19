/* Adaptive-p: the draw prefers tokens whose probability is near a target, so that the average
 * probability of the sampled tokens approaches it (llama.cpp's llama_sampler_adaptive_p, #17927).
 *
 * Definition: p are the probabilities after truncation. P, their running mean over the sampled
 * tokens, begins at adaptive_target; each sampled token changes it to decay * P + (1 - decay) * p.
 * Tokens are drawn with probabilities proportional to e ^ (-10 * x^2 / (1 + x)), where
 * x = |p - goal| / 0.3 and goal = 2 * adaptive_target - P, limited to 0..1.
 */
#ifndef OG_ADAPTIVE_H
#define OG_ADAPTIVE_H

#include <stdbool.h>

#include "og_dist.h"
#include "og_sampler.h"

/* Whether these parameters turn adaptive-p on. */
bool og_adaptive_is_on(const og_params *p);

/* Return the distribution that replaces d, whose sums must be up to date. Its weights lie in the
 * scratch's row; those of d stay unchanged. O(n). */
og_dist og_adaptive_weigh(const og_sampler *s, const og_dist *d, og_scratch *scratch);

/* Count a sampled token whose probability after truncation was p. O(1). */
void og_adaptive_update(og_sampler *s, double p);

#endif
