#include <float.h>
#include <math.h>
#include <string.h>

#include "og_adaptive.h"
#include "og_dist.h"
#include "og_math.h"
#include "og_mirostat.h"
#include "og_sampler.h"
#include "og_truncate.h"
#include "og_view.h"

/* Compute the logits of the touched tokens. */
static void adjust(og_sampler *s, const float *logits, const uint32_t *mask) {
    og_history *h = &s->history;
    const og_touched touched = {h->token, h->bias, h->generated, h->window, h->n};
    s->kernels->penalise(logits, &touched, &s->params.penalties, h->adjusted);
    if (og_dry_is_on(&s->dry.params)) og_dry_apply(&s->dry, h);
    if (mask == NULL) return;
    for (int32_t k = 0; k < h->n; k++) {
        if (!og_mask_allows(mask, h->token[k])) h->adjusted[k] = -INFINITY;
    }
}

/* Dividing the logits by less than FLT_MIN would overflow. */
static bool is_greedy(float temperature) { return temperature < FLT_MIN; }

static float temperature_of(const og_sampler *s, const og_view *v, float max) {
    const og_params *p = &s->params;
    if (is_greedy(p->temperature) || !(p->dynatemp_range > 0.0f)) return p->temperature;
    int32_t candidates = 0;
    for (int32_t i = 0; i < v->n; i++) candidates += v->row[i] != -INFINITY;
    if (candidates <= 1) return p->temperature;
    const double bits = og_entropy_bits(s->kernels, v->row, v->n, max, (float)OG_LOG2_E);
    const double share = bits / og_log2((double)candidates);
    const double range = (double)p->dynatemp_range, middle = (double)p->temperature;
    const double low = middle > range ? middle - range : 0.0, high = middle + range;
    const double power = share > 0.0 ? og_exp2((double)p->dynatemp_exponent * og_log2(share))
                                     : (p->dynatemp_exponent > 0.0f ? 0.0 : 1.0);
    return (float)(low + (high - low) * power);
}

/* log2(e) / temperature, for the kernels; finite if the temperature is not greedy. */
static float scale_of(float temperature) { return (float)(OG_LOG2_E / (double)temperature); }

/* Weigh the candidates that truncation keeps; the row is the scratch's if a step needs a copy. */
static og_dist candidates_of(const og_sampler *s, const og_view *v, float max, float scale,
                             og_scratch *scratch) {
    const og_params *p = &s->params;
    if (p->mirostat != 0) return og_mirostat_weigh(s, scratch->row, v->n, max, scale, scratch);
    og_dist d;
    if (v->row == scratch->row) {
        const int32_t k = p->top_k > 0 && p->top_k < p->min_keep ? p->min_keep : p->top_k;
        if (p->top_n_sigma > 0.0f) og_row_top_n_sigma(p, max, scratch->row, v->n);
        d = og_dist_weigh_copy(s->kernels, scratch->row, v->n, k, max, scale, scratch);
    } else {
        d = og_dist_weigh(s->kernels, v, max, scale, scratch);
    }
    og_dist_truncate(s, &d, max, scale, scratch);
    return d;
}

/* Store the distribution of a draw for og_scratch_logprobs. */
static void remember(og_scratch *scratch, const og_dist *d, int32_t drawn) {
    scratch->kept_weights = d->weights;
    scratch->kept_weight = d->weights[drawn];
    scratch->kept_ids = d->ids;
    scratch->kept_n = d->n;
    scratch->kept_low = d->low;
    scratch->kept_total = d->total;
}

/* What a draw takes its token from. */
typedef struct choices {
    float temperature; /* as dynatemp_range moved it */
    int32_t best;      /* the token of a greedy draw; then nothing below is set */
    og_dist kept;      /* what truncation left, before adaptive-p */
    og_dist d;         /* what the token is drawn from */
} choices;

/* Weigh the row; scratch->greedy says whether the draw is greedy. Changes only the scratch. */
static enum og_status weigh(og_sampler *s, og_scratch *scratch, const float *logits,
                            const uint32_t *mask, choices *c) {
    const og_kernels *kernels = s->kernels;
    const og_params *p = &s->params;
    og_view v = {logits, mask, s->history.n > 0 ? &s->history : NULL, s->n_vocab};
    const enum og_status status = kernels->scan(logits, NULL, v.n, scratch->raw_max);
    scratch->raw = status == OG_OK ? logits : NULL;
    if (status != OG_OK) return status;
    memcpy(scratch->block_max, scratch->raw_max, (size_t)og_blocks(v.n) * sizeof(float));
    if (v.touched != NULL) adjust(s, logits, mask);
    const bool copied = og_params_need_row(p) && !is_greedy(p->temperature);
    if (copied) {
        og_view_copy(&v, scratch->row);
        if (mask != NULL || v.touched != NULL) {
            const enum og_status changed =
                kernels->scan(scratch->row, NULL, v.n, scratch->block_max);
            if (changed != OG_OK) return changed;
        }
        v.row = scratch->row;
        v.mask = NULL;
        v.touched = NULL;
    }
    const float max = og_view_max(&v, kernels, scratch->block_max, scratch->block_top);
    if (max == INFINITY) return OG_ERR_INFINITE;
    if (max == -INFINITY) return OG_ERR_NO_CANDIDATE;
    c->temperature = temperature_of(s, &v, max);
    scratch->greedy = is_greedy(c->temperature);
    if (scratch->greedy) {
        c->best = og_view_argmax(&v, scratch->block_max, max);
        return OG_OK;
    }
    const float scale = scale_of(c->temperature);
    c->kept = candidates_of(s, &v, max, scale, scratch);
    og_dist_sum(kernels, &c->kept, scratch);
    c->d = og_adaptive_is_on(p) ? og_adaptive_weigh(s, &c->kept, scratch) : c->kept;
    return OG_OK;
}

/* Move the states of adaptive-p and mirostat, because candidate i was drawn. */
static void learn(og_sampler *s, const choices *c, int32_t i) {
    if (og_adaptive_is_on(&s->params)) {
        og_adaptive_update(s, (double)c->kept.weights[i] / c->kept.total);
    }
    if (s->params.mirostat != 0) og_mirostat_update(s, c->d.total, (double)c->d.weights[i]);
}

enum og_status og_sampler_draw(og_sampler *s, og_scratch *scratch, const float *logits,
                               const uint32_t *mask, int32_t *token) {
    choices c;
    const enum og_status status = weigh(s, scratch, logits, mask, &c);
    if (status != OG_OK) return status;
    if (scratch->greedy) {
        *token = c.best;
    } else {
        const double u = og_sampler_uniform(s, OG_STREAM_DRAW);
        const int32_t drawn = og_dist_draw(&c.d, scratch->block_sum, u);
        learn(s, &c, drawn);
        *token = c.d.ids != NULL ? c.d.ids[drawn] : drawn;
        remember(scratch, &c.d, drawn);
    }
    s->position++;
    return OG_OK;
}

enum og_status og_sampler_draws(og_sampler *s, og_scratch *scratch, const float *logits,
                                const uint32_t *mask, int32_t n, int32_t *tokens) {
    const uint64_t first = s->position;
    enum og_status status = OG_OK;
    /* Draws differ in their random numbers only: the row is weighed once for each case of XTC. */
    for (int removes = 0; removes < 2 && status == OG_OK; removes++) {
        bool weighed = false;
        choices c;
        for (int32_t i = 0; i < n && status == OG_OK; i++) {
            s->position = first + (uint64_t)i;
            const double coin = og_sampler_uniform(s, OG_STREAM_XTC);
            if ((coin < (double)s->params.xtc_probability) != (removes == 1)) continue;
            if (!weighed) status = weigh(s, scratch, logits, mask, &c);
            if (status != OG_OK) break;
            weighed = true;
            if (scratch->greedy) {
                tokens[i] = c.best;
            } else {
                const double u = og_sampler_uniform(s, OG_STREAM_DRAW);
                const int32_t drawn = og_dist_draw(&c.d, scratch->block_sum, u);
                tokens[i] = c.d.ids != NULL ? c.d.ids[drawn] : drawn;
            }
        }
    }
    s->position = first;
    return status;
}

/* Return the place of a candidate's weight; -1 if the token cannot be drawn. */
static int32_t place_of(const og_dist *d, int32_t token) {
    int32_t at = d->ids == NULL ? token : 0;
    while (d->ids != NULL && at < d->n && d->ids[at] != token) at++;
    return at < d->n && og_dist_keeps(d, at) ? at : -1;
}

enum og_status og_sampler_follow(og_sampler *s, og_scratch *scratch, const float *logits,
                                 const uint32_t *mask, int32_t token) {
    choices c;
    const enum og_status status = weigh(s, scratch, logits, mask, &c);
    if (status != OG_OK) return status;
    if (!scratch->greedy) {
        const int32_t at = place_of(&c.kept, token);
        if (at >= 0) learn(s, &c, at);
    }
    s->position++;
    return OG_OK;
}

enum og_status og_sampler_distribution(og_sampler *s, og_scratch *scratch, const float *logits,
                                       const uint32_t *mask, double *probabilities,
                                       float *temperature) {
    choices c;
    const enum og_status status = weigh(s, scratch, logits, mask, &c);
    if (status != OG_OK) return status;
    *temperature = scratch->greedy ? 0.0f : c.temperature;
    for (int32_t i = 0; i < s->n_vocab; i++) probabilities[i] = 0.0;
    if (scratch->greedy) {
        probabilities[c.best] = 1.0;
        return OG_OK;
    }
    for (int32_t i = 0; i < c.d.n; i++) {
        if (!og_dist_keeps(&c.d, i)) continue;
        probabilities[c.d.ids != NULL ? c.d.ids[i] : i] = (double)c.d.weights[i] / c.d.total;
    }
    return OG_OK;
}
