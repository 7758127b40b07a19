#include "og_adaptive.h"

#include <math.h>

#include "og_math.h"

static const double WIDTH = 0.3, SHARPNESS = 10.0;

bool og_adaptive_is_on(const og_params *p) {
    return p->adaptive_target >= 0.0f && p->mirostat == 0;
}

static double goal_of(const og_sampler *s) {
    const double goal = 2.0 * (double)s->params.adaptive_target - s->adaptive_mean;
    if (!(goal > 0.0)) return 0.0;
    return goal < 1.0 ? goal : 1.0;
}

og_dist og_adaptive_weigh(const og_sampler *s, const og_dist *d, og_scratch *scratch) {
    const og_dist before = *d;
    const double goal = goal_of(s);
    float *row = scratch->row;
    for (int32_t i = 0; i < before.n; i++) {
        const double x = fabs((double)before.weights[i] / before.total - goal) / WIDTH;
        const double exponent = -SHARPNESS * x * x / (1.0 + x);
        row[i] = og_dist_keeps(&before, i) ? (float)exponent : -INFINITY;
    }
    og_dist after = {row, NULL, before.ids, NULL, before.n, 0.0f, 1.0f, 0.0, true};
    s->kernels->weigh(row, NULL, after.n, 0.0f, (float)OG_LOG2_E, NULL, row, scratch->block_sum);
    after.total = og_dist_add_blocks(scratch->block_sum, after.n);
    return after;
}

void og_adaptive_update(og_sampler *s, double p) {
    const double decay = (double)s->params.adaptive_decay;
    s->adaptive_mean = decay * s->adaptive_mean + (1.0 - decay) * p;
}
