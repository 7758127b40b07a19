#include "rig.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *heap_take(size_t bytes) {
    void *memory = bytes > 0 && bytes % 64 == 0 ? aligned_alloc(64, bytes) : malloc(bytes);
    if (memory == NULL && bytes > 0) {
        perror("malloc");
        exit(2);
    }
    return memory;
}

const rig_memory rig_heap = {heap_take, free};

/* --- the sampler ------------------------------------------------------------------------------ */

static void *copy_of(const rig *r, const void *data, size_t bytes) {
    void *copy = r->memory->take(bytes);
    if (bytes > 0) memcpy(copy, data, bytes);
    return copy;
}

static float bias_of(const rig_spec *spec, int32_t token) {
    for (int32_t i = 0; i < spec->n_biases; i++) {
        if (spec->biases[i].token == token) return spec->biases[i].bias;
    }
    return 0.0f;
}

static void init_history(rig *r, const rig_spec *spec) {
    og_sampler *s = &r->sampler;
    /* As small as can be, so that growing is tested, too. */
    const int32_t capacity = og_padded(spec->n_biases + spec->n_ends + 1);
    const int32_t last_n = spec->params.penalties.repetition != 1.0f ? spec->repeat_last_n : 0;
    r->history_memory = r->memory->take(og_history_bytes(capacity));
    int32_t *in_block = r->memory->take((size_t)og_blocks(spec->n_vocab) * sizeof *in_block);
    int32_t *ring = last_n > 0 ? r->memory->take((size_t)last_n * sizeof *ring) : NULL;
    og_history_init(&s->history, spec->n_vocab, r->history_memory, capacity, in_block, ring, last_n,
                    spec->dry_multiplier != 0.0f);
    for (int32_t i = 0; i < spec->n_biases; i++) {
        og_history_bias(&s->history, spec->biases[i].token, spec->biases[i].bias);
    }
    s->n_ends = spec->min_tokens > 0 ? spec->n_ends : 0;
    r->ends = copy_of(r, spec->ends, (size_t)s->n_ends * sizeof *r->ends);
    for (int32_t i = 0; i < s->n_ends; i++) {
        r->ends[i].bias = bias_of(spec, r->ends[i].token);
        og_history_bias(&s->history, r->ends[i].token, -INFINITY);
    }
    s->ends = r->ends;
    s->min_tokens = spec->min_tokens;
}

static void init_dry(rig *r, const rig_spec *spec) {
    og_dry *d = &r->sampler.dry;
    d->multiplier = spec->dry_multiplier;
    d->base = spec->dry_base;
    d->allowed_length = spec->dry_allowed_length;
    d->last_n = spec->dry_last_n;
    r->breakers = copy_of(r, spec->breakers, (size_t)spec->n_breakers * sizeof *r->breakers);
    r->tails = copy_of(r, spec->tails, (size_t)spec->n_tails * sizeof *r->tails);
    d->breakers = r->breakers;
    d->tails = r->tails;
    d->n_breakers = spec->n_breakers;
    d->capacity = d->last_n > 0 ? 2 * d->last_n : 1;
    d->tokens = r->memory->take((size_t)d->capacity * sizeof *d->tokens);
    d->repeats = r->memory->take((size_t)d->capacity * sizeof *d->repeats);
}

static void make_room(rig *r) {
    og_sampler *s = &r->sampler;
    if (og_history_full(&s->history)) {
        const int32_t capacity = 2 * s->history.capacity;
        void *larger = r->memory->take(og_history_bytes(capacity));
        og_history_grow(&s->history, larger, capacity);
        r->memory->give(r->history_memory);
        r->history_memory = larger;
    }
    og_dry *d = &s->dry;
    if (d->multiplier == 0.0f || !og_dry_full(d)) return;
    d->capacity *= 2;
    int32_t *tokens = r->memory->take((size_t)d->capacity * sizeof *tokens);
    memcpy(tokens, d->tokens, (size_t)d->n * sizeof *tokens);
    r->memory->give(d->tokens);
    r->memory->give(d->repeats);
    d->tokens = tokens;
    d->repeats = r->memory->take((size_t)d->capacity * sizeof *d->repeats);
}

void rig_init(rig *r, const rig_spec *spec, const og_kernels *kernels, const rig_memory *memory) {
    memset(r, 0, sizeof *r);
    r->memory = memory;
    og_sampler *s = &r->sampler;
    s->kernels = kernels;
    s->n_vocab = spec->n_vocab;
    s->params = spec->params;
    s->seed = spec->seed;
    s->choice = spec->choice;
    s->mu = 2.0 * (double)spec->params.mirostat_tau;
    const bool with_row = og_sampler_needs_row(&s->params);
    r->scratch_memory = memory->take(og_scratch_bytes(spec->n_vocab, with_row));
    og_scratch_init(&r->scratch, r->scratch_memory, spec->n_vocab, with_row);
    init_history(r, spec);
    init_dry(r, spec);
    const bool dry = spec->dry_multiplier != 0.0f;
    if (s->history.last_n == 0 && !dry) return;
    for (int32_t i = 0; i < spec->n_prompt; i++) {
        make_room(r);
        og_history_add(&s->history, spec->prompt[i], false);
        if (dry) og_dry_add(&s->dry, spec->prompt[i]);
    }
}

void rig_accept(rig *r, int32_t token) {
    make_room(r);
    og_sampler_accept(&r->sampler, token);
}

void rig_free(rig *r) {
    void *const all[] = {
        r->history_memory,     r->scratch_memory,  r->ends,
        r->breakers,           r->tails,           r->sampler.history.in_block,
        r->sampler.history.ring, r->sampler.dry.tokens, r->sampler.dry.repeats,
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] != NULL) r->memory->give(all[i]);
    }
}

/* --- the definition --------------------------------------------------------------------------- */

static int32_t token_at(const rig_spec *spec, const int32_t *generated, int32_t i) {
    return i < spec->n_prompt ? spec->prompt[i] : generated[i - spec->n_prompt];
}

static bool is_end(const rig_spec *spec, int32_t token) {
    for (int32_t i = 0; i < spec->n_ends; i++) {
        if (spec->ends[i].token == token) return true;
    }
    return false;
}

static int32_t count_of(const int32_t *tokens, int32_t n, int32_t token) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += tokens[i] == token;
    return count;
}

/* Whether a breaker stands at t[at], and where the longest of them ends. */
static bool breaker_ends(const rig_spec *spec, const int32_t *t, int32_t n, int32_t at,
                         int32_t *end) {
    bool found = false;
    for (int32_t b = 0; b < spec->n_breakers; b++) {
        const og_breaker *breaker = &spec->breakers[b];
        if (breaker->head != t[at] || at + 1 + breaker->tail_length > n) continue;
        bool same = true;
        for (int32_t i = 0; i < breaker->tail_length; i++) {
            same = same && spec->tails[breaker->tail_begin + i] == t[at + 1 + i];
        }
        if (!same) continue;
        if (!found || at + 1 + breaker->tail_length > *end) *end = at + 1 + breaker->tail_length;
        found = true;
    }
    return found;
}

/* The longest repetition that t[0..n-1] followed by `token` would continue, -1 for none. */
static int32_t repetition_of(const rig_spec *spec, const int32_t *t, int32_t n, int32_t limit,
                             int32_t token) {
    int32_t longest = -1;
    for (int32_t j = 1; j < n; j++) {
        if (t[j] != token) continue;
        int32_t length = 0;
        while (length < j && length < limit && t[j - 1 - length] == t[n - 1 - length]) length++;
        if (length >= spec->dry_allowed_length && length > longest) longest = length;
    }
    return longest;
}

static bool breaks_alone(const rig_spec *spec, int32_t token) {
    for (int32_t b = 0; b < spec->n_breakers; b++) {
        if (spec->breakers[b].head == token && spec->breakers[b].tail_length == 0) return true;
    }
    return false;
}

static void apply_dry(const rig_spec *spec, const int32_t *all, int32_t n_all, float *adjusted) {
    const int32_t n = spec->dry_last_n >= 0 && spec->dry_last_n < n_all ? spec->dry_last_n : n_all;
    const int32_t *t = all + (n_all - n);
    int32_t limit = n, end = 0;
    for (int32_t at = n - 1; at >= 0; at--) {
        if (!breaker_ends(spec, t, n, at, &end)) continue;
        limit = n - end;
        break;
    }
    for (int32_t first = 0; first < n; first++) {
        const int32_t token = t[first];
        if (count_of(t, first, token) > 0 || breaks_alone(spec, token)) continue;
        const int32_t length = repetition_of(spec, t, n, limit, token);
        if (length < 0) continue;
        const int32_t e = length - spec->dry_allowed_length;
        /* By squaring as the code does: other orders of multiplying round in other ways. */
        double power = 1.0, factor = (double)spec->dry_base;
        for (int32_t left = e; left > 0; left >>= 1) {
            if (left & 1) power *= factor;
            factor *= factor;
        }
        const double penalty = (double)spec->dry_multiplier * power;
        adjusted[token] -= penalty < (double)FLT_MAX ? (float)penalty : FLT_MAX;
    }
}

static void apply_penalties(const rig_spec *spec, const int32_t *all, int32_t n_all,
                            const int32_t *generated, int32_t n_generated, float *adjusted) {
    const og_penalties *p = &spec->params.penalties;
    const int32_t last_n = spec->repeat_last_n;
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
    memcpy(adjusted, row, (size_t)spec->n_vocab * sizeof *adjusted);
    for (int32_t i = 0; i < spec->n_biases; i++) {
        adjusted[spec->biases[i].token] += spec->biases[i].bias;
    }
    const int32_t n_all = spec->n_prompt + n_generated;
    int32_t *all = heap_take((size_t)(n_all + 1) * sizeof *all);
    for (int32_t i = 0; i < n_all; i++) all[i] = token_at(spec, generated, i);
    apply_penalties(spec, all, n_all, generated, n_generated, adjusted);
    if (spec->dry_multiplier != 0.0f) apply_dry(spec, all, n_all, adjusted);
    free(all);
    for (int32_t i = 0; i < spec->n_vocab; i++) {
        const bool banned = n_generated < spec->min_tokens && is_end(spec, i);
        const bool outside = mask != NULL && !(mask[i / 32] >> i % 32 & 1u);
        if (banned || outside) adjusted[i] = -INFINITY;
    }
}
