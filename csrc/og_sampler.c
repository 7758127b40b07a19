#include "og_sampler.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "og_math.h"
#include "og_philox.h"
#include "og_select.h"

/* Sums run in this many lanes and one fixed order, whatever the width of the registers. */
enum { LANES = 16, BLOCK = 512 };

/* The largest of n >= 1 values; OG_ERR_NAN or OG_ERR_INFINITE for rows that have such. */
static int row_max(const float *values, int32_t n, float *max) {
    float largest = -INFINITY;
    uint32_t nan = 0;
    for (int32_t i = 0; i < n; i++) {
        nan |= values[i] != values[i];
        largest = values[i] > largest ? values[i] : largest;
    }
    if (nan) return OG_ERR_NAN;
    if (largest == INFINITY) return OG_ERR_INFINITE;
    *max = largest;
    return OG_OK;
}

static void apply_bias(const og_bias *bias, int32_t n_bias, float *logits) {
    for (int32_t i = 0; i < n_bias; i++) logits[bias[i].token] += bias[i].value;
}

static void apply_mask(const uint32_t *mask, float *logits, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (!(mask[i >> 5] >> (i & 31) & 1)) logits[i] = -INFINITY;
    }
}

/* Touches only tokens that were seen. -infinity stays -infinity. */
static void apply_penalties(const og_params *p, const og_history *h, float *logits) {
    for (int32_t i = 0; i < h->n_seen; i++) {
        const og_seen *seen = &h->seen[i];
        float *l = &logits[seen->token];
        if (*l == -INFINITY) continue;
        if (seen->window > 0) {
            *l = *l <= 0.0f ? *l * p->repetition_penalty : *l / p->repetition_penalty;
        }
        if (seen->generated > 0) {
            *l -= (float)seen->generated * p->frequency_penalty + p->presence_penalty;
        }
    }
}

static bool penalties_on(const og_params *p) {
    return p->repetition_penalty != 1.0f || p->frequency_penalty != 0.0f ||
           p->presence_penalty != 0.0f;
}

static int32_t argmax(const float *values, int32_t n, float max) {
    for (int32_t i = 0; i < n; i++) {
        if (values[i] == max) return i;
    }
    return n - 1; /* not reached: max is one of the values */
}

/* weights = exp((logits - max) / temperature): the tempered distribution up to a factor. The
 * largest weight is exactly 1. */
static void temper(const float *logits, int32_t n, float max, float temperature, float *weights) {
    for (int32_t i = 0; i < n; i++) weights[i] = og_expf((logits[i] - max) / temperature);
}

static double sum_block(const float *values, int32_t n) {
    double lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += (double)values[i + lane];
    }
    for (int lane = 0; i < n; i++, lane++) lanes[lane] += (double)values[i];
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}

static int32_t block_length(int32_t n, int32_t start) {
    return n - start < BLOCK ? n - start : BLOCK;
}

static double sum(const float *values, int32_t n) {
    double total = 0.0;
    for (int32_t start = 0; start < n; start += BLOCK) {
        total += sum_block(values + start, block_length(n, start));
    }
    return total;
}

/* Inverse CDF in order of ids. Whole blocks are skipped by their sums, the same sums that made
 * the total. At least one weight is above 0. */
static int32_t draw(const float *weights, int32_t n, double u) {
    const double target = u * sum(weights, n);
    double before = 0.0;
    int32_t last = 0; /* the last drawable token: what rounding falls back to */
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t length = block_length(n, start);
        const double block = sum_block(weights + start, length);
        const bool inside = before + block > target;
        double running = before;
        for (int32_t i = start; (inside || start + BLOCK >= n) && i < start + length; i++) {
            if (weights[i] <= 0.0f) continue;
            last = i;
            running += (double)weights[i];
            if (running > target) return i;
        }
        /* Rounding inside the block may miss what its sum promised: its last token it is. */
        if (inside) return last;
        before += block;
    }
    return last;
}

static void truncate(const og_params *p, const float *logits, float *weights, int32_t n) {
    if (p->top_k > 0 && p->top_k < n) {
        /* On the logits, whose order is the same: weights of distant ones may both be 0. */
        const og_cut cut = og_select_count(logits, n, p->top_k);
        int32_t ties = cut.n_ties;
        for (int32_t i = 0; i < n; i++) {
            const uint32_t bits = og_order_bits(logits[i]);
            const bool tie = bits == cut.threshold && ties > 0;
            if (tie) ties--;
            if (bits < cut.threshold || (bits == cut.threshold && !tie)) weights[i] = 0.0f;
        }
    }
    if (p->top_p < 1.0f) {
        const double target = (double)p->top_p * sum(weights, n);
        og_cut_apply(og_select_mass(weights, n, target), weights, n, 0.0f);
    }
    if (p->min_p > 0.0f) {
        /* The largest weight is 1 and no cut has dropped it. */
        for (int32_t i = 0; i < n; i++) {
            if (weights[i] < p->min_p) weights[i] = 0.0f;
        }
    }
}

int og_sampler_draw(og_sampler *s, const float *logits, const uint32_t *mask, int32_t *token) {
    const int32_t n = s->n_vocab;
    float max;
    int status = row_max(logits, n, &max);
    if (status != OG_OK) return status;

    float *adjusted = s->adjusted;
    memcpy(adjusted, logits, (size_t)n * sizeof *logits);
    apply_bias(s->bias, s->n_bias, adjusted);
    if (mask != NULL) apply_mask(mask, adjusted, n);
    if (penalties_on(&s->params)) apply_penalties(&s->params, &s->history, adjusted);
    status = row_max(adjusted, n, &max);
    if (status != OG_OK) return status;
    if (max == -INFINITY) return OG_ERR_NO_CANDIDATE;

    if (s->params.temperature == 0.0f) {
        *token = argmax(adjusted, n, max);
    } else {
        temper(adjusted, n, max, s->params.temperature, s->weights);
        truncate(&s->params, adjusted, s->weights, n);
        *token = draw(s->weights, n, og_philox_uniform(s->seed, s->choice, s->position));
    }
    s->position++;
    return OG_OK;
}

/* log(sum(exp(l - max))), in blocks as all sums here. */
static double log_sum_exp(const float *logits, int32_t n, float max) {
    float weights[BLOCK];
    double total = 0.0;
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t length = block_length(n, start);
        for (int32_t i = 0; i < length; i++) weights[i] = og_expf(logits[start + i] - max);
        total += sum_block(weights, length);
    }
    return log(total);
}

/* Keep the n_top largest in `top` (best first) by insertion: most values fail the first compare. */
static void insert_top(og_candidate *top, int32_t *size, int32_t n_top, int32_t token, float logit) {
    int32_t at = *size < n_top ? *size : n_top - 1;
    if (*size == n_top && !(logit > top[at].logprob)) return;
    for (; at > 0 && logit > top[at - 1].logprob; at--) top[at] = top[at - 1];
    top[at].token = token;
    top[at].logprob = logit;
    if (*size < n_top) ++*size;
}

void og_logprobs(const float *logits, int32_t n, int32_t token, float *logprob, og_candidate *top,
                 int32_t n_top) {
    float max = logits[0];
    for (int32_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    const double log_total = log_sum_exp(logits, n, max);
    *logprob = (float)((double)logits[token] - (double)max - log_total);
    int32_t size = 0;
    for (int32_t i = 0; n_top > 0 && i < n; i++) insert_top(top, &size, n_top, i, logits[i]);
    for (int32_t i = 0; i < n_top; i++) {
        top[i].logprob = (float)((double)top[i].logprob - (double)max - log_total);
    }
}
