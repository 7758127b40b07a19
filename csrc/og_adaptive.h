/* Adaptive-p: the draw prefers tokens whose probability is near a target, so that over many tokens
 * the probability of what is drawn comes near it (llama.cpp's llama_sampler_adaptive_p, #17927).
 *
 * Definition: p are the probabilities that truncation left. P, their running mean over the drawn
 * tokens, begins at adaptive_target; each drawn token makes it decay * P + (1 - decay) * p. The
 * token is drawn with probabilities in proportion to e ^ (-10 * x^2 / (1 + x)),  x = |p - goal| /
 * 0.3, goal = 2 * adaptive_target - P, but at least 0 and at most 1.
 */
#ifndef OG_ADAPTIVE_H
#define OG_ADAPTIVE_H

#include <stdbool.h>

#include "og_dist.h"
#include "og_sampler.h"

/* Whether these parameters ask for it. */
bool og_adaptive_is_on(const og_params *p);

/* The distribution that takes the place of d, whose sums are up to date. Its weights lie in the
 * scratch's row, those of d stay as they are. O(n). */
og_dist og_adaptive_weigh(const og_sampler *s, const og_dist *d, og_scratch *scratch);

/* Count a drawn token whose probability after truncation was p. O(1). */
void og_adaptive_update(og_sampler *s, double p);

#endif
