#include "og_mirostat.h"

#include <math.h>

#include "og_math.h"
#include "og_truncate.h"

/* Mirostat 1: the k for which the expected surprise is mu. The most likely tokens give an estimate
 * of how fast the probabilities fall (Basu et al. 2021, algorithm 1; m = 100). */
static int32_t mirostat_k(const og_sampler *s, const float *row, int32_t n, float scale,
                          og_scratch *scratch) {
    enum { M = 100 };
    float best[M];
    const int32_t wanted = n < M ? n : M;
    const int32_t size =
        og_select_top(s->kernels, row, n, scratch->block_max, wanted, &scratch->lists, best);
    double product = 0.0, square = 0.0;
    for (int32_t i = 0; i + 1 < size && i < M - 1 && best[i + 1] > -INFINITY; i++) {
        const double t = OG_LN_2 * og_log2((double)(i + 2) / (double)(i + 1));
        const double b = ((double)best[i] - (double)best[i + 1]) * (double)scale * OG_LN_2;
        product += t * b;
        square += t * t;
    }
    if (square == 0.0) return 1;
    const double s_hat = product / square, epsilon = s_hat - 1.0;
    const double fall = 1.0 - og_exp2(-epsilon * og_log2((double)n));
    /* If s_hat is 1, use the limit of epsilon / (1 - n^-epsilon). */
    const double slope = fall == 0.0 ? 1.0 / (OG_LN_2 * og_log2((double)n)) : epsilon / fall;
    const double base = slope * og_exp2(s->mu);
    if (!(s_hat > 0.0) || !(base > 0.0)) return n; /* flat: nothing to drop */
    const double k = og_exp2(og_log2(base) / s_hat);
    if (k >= (double)n) return n;
    return k >= 1.0 ? (int32_t)k : 1;
}

og_dist og_mirostat_weigh(const og_sampler *s, float *row, int32_t n, float max, float scale,
                          og_scratch *scratch) {
    const int32_t k = s->params.mirostat == 1 ? mirostat_k(s, row, n, scale, scratch) : 0;
    og_dist d = og_dist_weigh_copy(s->kernels, row, n, k, max, scale, scratch);
    if (s->params.mirostat == 2) {
        const double border = d.total * og_exp2(-s->mu);
        d.low = border < 1.0 ? (float)border : 1.0f; /* always keep the most likely token */
        d.summed = false;
    }
    return d;
}

void og_mirostat_update(og_sampler *s, double total, double weight) {
    const double surprise = og_log2(total) - og_log2(weight);
    s->mu -= (double)s->params.mirostat_eta * (surprise - (double)s->params.mirostat_tau);
}
