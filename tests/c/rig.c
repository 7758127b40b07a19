#include "rig.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *heap_take(size_t bytes) {
    const bool aligned = bytes > 0 && bytes % OG_ALIGNMENT == 0;
    void *memory = aligned ? aligned_alloc(OG_ALIGNMENT, bytes) : malloc(bytes);
    if (memory == NULL && bytes > 0) {
        perror("malloc");
        exit(2);
    }
    return memory;
}

const rig_memory rig_heap = {heap_take, free};

/* --- the sampler ------------------------------------------------------------------------------ */

static void make_room(rig *r) {
    og_sampler *s = &r->sampler;
    if (!og_sampler_is_full(s)) return;
    void *larger = r->memory->take(og_sampler_reserve_bytes(s, 1));
    og_sampler_reserve(s, 1, larger);
    r->memory->give(r->sampler_memory);
    r->sampler_memory = larger;
}

void rig_init(rig *r, const rig_spec *spec, const og_kernels *kernels, const rig_memory *memory) {
    og_config config = spec->config;
    config.kernels = kernels;
    config.room = 1; /* so that growing is tested too */
    r->memory = memory;
    r->sampler_memory = memory->take(og_sampler_bytes(&config));
    og_sampler_init(&r->sampler, &config, r->sampler_memory);
    const bool with_row = og_params_need_row(&config.params);
    r->scratch_memory = memory->take(og_scratch_bytes(config.n_vocab, with_row));
    og_scratch_init(&r->scratch, r->scratch_memory, config.n_vocab, with_row);
    const int32_t lookback = og_sampler_lookback(&r->sampler);
    const int32_t seen = lookback >= 0 && lookback < spec->n_prompt ? lookback : spec->n_prompt;
    for (int32_t i = spec->n_prompt - seen; i < spec->n_prompt; i++) {
        make_room(r);
        og_sampler_accept_prompt(&r->sampler, spec->prompt[i]);
    }
}

void rig_accept(rig *r, int32_t token) {
    make_room(r);
    og_sampler_accept(&r->sampler, token);
}

void rig_free(rig *r) {
    r->memory->give(r->sampler_memory);
    r->memory->give(r->scratch_memory);
}

/* --- the definition --------------------------------------------------------------------------- */

static int32_t token_at(const rig_spec *spec, const int32_t *generated, int32_t i) {
    return i < spec->n_prompt ? spec->prompt[i] : generated[i - spec->n_prompt];
}

static bool is_end(const og_config *c, int32_t token) {
    for (int32_t i = 0; i < c->n_ends; i++) {
        if (c->ends[i] == token) return true;
    }
    return false;
}

static int32_t count_of(const int32_t *tokens, int32_t n, int32_t token) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += tokens[i] == token;
    return count;
}

/* Whether a breaker begins at t[at], and where the longest of them ends. */
static bool breaker_ends(const og_config *c, const int32_t *t, int32_t n, int32_t at,
                         int32_t *end) {
    bool found = false;
    const int32_t *breaker = c->breakers;
    for (int32_t b = 0; b < c->n_breakers; breaker += c->breaker_lengths[b++]) {
        const int32_t length = c->breaker_lengths[b];
        if (at + length > n) continue;
        if (memcmp(breaker, t + at, (size_t)length * sizeof *t) != 0) continue;
        if (!found || at + length > *end) *end = at + length;
        found = true;
    }
    return found;
}

/* The longest repetition that `token` after t[0..n-1] would continue, -1 for none. */
static int32_t repetition_of(const og_config *c, const int32_t *t, int32_t n, int32_t limit,
                             int32_t token) {
    int32_t longest = -1;
    for (int32_t j = 1; j < n; j++) {
        if (t[j] != token) continue;
        int32_t length = 0;
        while (length < j && length < limit && t[j - 1 - length] == t[n - 1 - length]) length++;
        if (length >= c->params.dry.allowed_length && length > longest) longest = length;
    }
    return longest;
}

static bool breaks_alone(const og_config *c, int32_t token) {
    const int32_t *breaker = c->breakers;
    for (int32_t b = 0; b < c->n_breakers; breaker += c->breaker_lengths[b++]) {
        if (c->breaker_lengths[b] == 1 && *breaker == token) return true;
    }
    return false;
}

static void apply_dry(const og_config *c, const int32_t *all, int32_t n_all, float *adjusted) {
    const og_dry_params *p = &c->params.dry;
    const int32_t n = p->last_n >= 0 && p->last_n < n_all ? p->last_n : n_all;
    const int32_t *t = all + (n_all - n);
    int32_t limit = n, end = 0;
    for (int32_t at = n - 1; at >= 0; at--) {
        if (!breaker_ends(c, t, n, at, &end)) continue;
        limit = n - end;
        break;
    }
    for (int32_t first = 0; first < n; first++) {
        const int32_t token = t[first];
        if (count_of(t, first, token) > 0 || breaks_alone(c, token)) continue;
        const int32_t length = repetition_of(c, t, n, limit, token);
        if (length < 0) continue;
        const int32_t e = length - p->allowed_length;
        /* By squaring, as in the code: another order of multiplications rounds differently. */
        double power = 1.0, factor = (double)p->base;
        for (int32_t left = e; left > 0; left >>= 1) {
            if (left & 1) power *= factor;
            factor *= factor;
        }
        const double penalty = (double)p->multiplier * power;
        adjusted[token] -= penalty < (double)FLT_MAX ? (float)penalty : FLT_MAX;
    }
}

static void apply_penalties(const og_config *c, const int32_t *all, int32_t n_all,
                            const int32_t *generated, int32_t n_generated, float *adjusted) {
    const og_penalties *p = &c->params.penalties;
    const int32_t last_n = c->params.repeat_last_n;
    const int32_t n = last_n >= 0 && last_n < n_all ? last_n : n_all;
    const int32_t *window = all + (n_all - n);
    for (int32_t i = 0; i < n && p->repetition != 1.0f; i++) {
        float *l = &adjusted[window[i]];
        if (count_of(window, i, window[i]) > 0) continue;
        *l = *l <= 0.0f ? *l * p->repetition : *l / p->repetition;
    }
    for (int32_t i = 0; i < n_generated; i++) {
        const int32_t token = generated[i];
        if (count_of(generated, i, token) > 0) continue;
        const float count = (float)count_of(generated, n_generated, token);
        adjusted[token] -= count * p->frequency + p->presence;
    }
}

void rig_adjusted(const rig_spec *spec, const float *row, const uint32_t *mask,
                  const int32_t *generated, int32_t n_generated, float *adjusted) {
    const og_config *c = &spec->config;
    memcpy(adjusted, row, (size_t)c->n_vocab * sizeof *adjusted);
    for (int32_t i = 0; i < c->n_biases; i++) adjusted[c->biases[i].token] += c->biases[i].bias;
    const int32_t n_all = spec->n_prompt + n_generated;
    int32_t *all = heap_take((size_t)(n_all + 1) * sizeof *all);
    for (int32_t i = 0; i < n_all; i++) all[i] = token_at(spec, generated, i);
    apply_penalties(c, all, n_all, generated, n_generated, adjusted);
    if (c->params.dry.multiplier != 0.0f) apply_dry(c, all, n_all, adjusted);
    free(all);
    for (int32_t i = 0; i < c->n_vocab; i++) {
        const bool banned = n_generated < c->params.min_tokens && is_end(c, i);
        const bool outside = mask != NULL && !(mask[i / 32] >> i % 32 & 1u);
        if (banned || outside) adjusted[i] = -INFINITY;
    }
}
