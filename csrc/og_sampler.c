#include "og_sampler.h"

#include <math.h>
#include <string.h>

#include "og_memory.h"
#include "og_philox.h"

/* --- memory ----------------------------------------------------------------------------------- */

/* The numbers of entries of a sampler's arrays. */
typedef struct extents {
    int32_t blocks, ring, ends, breakers, tails, history, dry;
} extents;

/* The addresses of these arrays. */
typedef struct arrays {
    void *history;
    int32_t *in_block, *ring, *tails, *tokens, *repeats;
    og_bias *ends;
    og_breaker *breakers;
} arrays;

static size_t lay_out(arrays *a, void *memory, const extents *n) {
    og_memory m = {memory, 0};
    a->history = og_memory_take(&m, og_history_bytes(n->history));
    a->in_block = og_memory_take(&m, (size_t)n->blocks * sizeof *a->in_block);
    a->ring = og_memory_take(&m, (size_t)n->ring * sizeof *a->ring);
    a->ends = og_memory_take(&m, (size_t)n->ends * sizeof *a->ends);
    a->breakers = og_memory_take(&m, (size_t)n->breakers * sizeof *a->breakers);
    a->tails = og_memory_take(&m, (size_t)n->tails * sizeof *a->tails);
    a->tokens = og_memory_take(&m, (size_t)n->dry * sizeof *a->tokens);
    a->repeats = og_memory_take(&m, (size_t)n->dry * sizeof *a->repeats);
    return m.used;
}

/* Returns -1 for everything. */
static int32_t window_of(int32_t last_n) {
    return last_n < 0 || last_n > OG_MAX_WINDOW ? -1 : last_n;
}

/* The repetition window; 0 if no penalty reads it. */
static int32_t repetition_window(const og_params *p) {
    return p->penalties.repetition != 1.0f ? window_of(p->repeat_last_n) : 0;
}

/* A capacity of the history: whole lanes, and never more than the vocabulary needs. */
static int32_t history_capacity(int64_t tokens, int32_t n_vocab) {
    return og_padded(tokens < n_vocab ? (int32_t)tokens : n_vocab);
}

static int32_t dry_capacity(const og_dry_params *p, int32_t room) {
    if (!og_dry_is_on(p)) return 0;
    /* A bounded window gets all its room now, and is never full. */
    const int32_t last_n = window_of(p->last_n);
    return last_n > 0 ? 2 * last_n : room;
}

static extents extents_of(const og_config *c) {
    extents n = {.blocks = og_blocks(c->n_vocab)};
    const int32_t window = repetition_window(&c->params);
    n.ring = window > 0 ? window : 0;
    n.ends = c->params.min_tokens > 0 ? c->n_ends : 0;
    n.history = history_capacity((int64_t)c->n_biases + n.ends + c->room, c->n_vocab);
    n.dry = dry_capacity(&c->params.dry, c->room);
    if (n.dry == 0) return n;
    n.breakers = c->n_breakers;
    for (int32_t i = 0; i < c->n_breakers; i++) n.tails += c->breaker_lengths[i] - 1;
    return n;
}

/* A capacity with room for `needed`: the old one if it is enough, else at least twice that. */
static int64_t grown(int64_t capacity, int64_t needed) {
    if (needed <= capacity) return capacity;
    return needed > 2 * capacity ? needed : 2 * capacity;
}

static extents extents_grown(const og_sampler *s, int32_t tokens) {
    const og_history *h = &s->history;
    extents n = {.blocks = og_blocks(s->n_vocab)};
    n.ring = h->last_n > 0 ? h->last_n : 0;
    n.ends = s->n_ends;
    n.breakers = s->dry.n_breakers;
    n.tails = s->dry.n_tails;
    n.history = history_capacity(grown(h->capacity, (int64_t)h->n + tokens), s->n_vocab);
    n.dry = s->dry.capacity;
    if (og_dry_is_on(&s->dry.params) && s->dry.params.last_n < 0) {
        n.dry = (int32_t)grown(s->dry.capacity, (int64_t)s->dry.n + tokens);
    }
    return n;
}

size_t og_sampler_bytes(const og_config *config) {
    arrays unused;
    const extents n = extents_of(config);
    return lay_out(&unused, NULL, &n);
}

size_t og_sampler_reserve_bytes(const og_sampler *s, int32_t tokens) {
    arrays unused;
    const extents n = extents_grown(s, tokens);
    return lay_out(&unused, NULL, &n);
}

/* --- setting up ------------------------------------------------------------------------------- */

/* Until min_tokens are accepted. */
static void ban_ends(og_sampler *s) {
    for (int32_t i = 0; i < s->n_ends; i++) {
        og_history_set_bias(&s->history, s->ends[i].token, -INFINITY);
    }
}

static void init_history(og_sampler *s, const og_config *c, const arrays *a, const extents *n) {
    og_history *h = &s->history;
    og_history_init(h, c->n_vocab, a->history, n->history, a->in_block,
                    n->ring > 0 ? a->ring : NULL, repetition_window(&c->params),
                    og_dry_is_on(&c->params.dry));
    for (int32_t i = 0; i < c->n_biases; i++) {
        og_history_set_bias(h, c->biases[i].token, c->biases[i].bias);
    }
    s->ends = a->ends;
    s->n_ends = n->ends;
    for (int32_t i = 0; i < n->ends; i++) {
        const int32_t at = og_history_find(h, c->ends[i]);
        s->ends[i].token = c->ends[i];
        s->ends[i].bias = at >= 0 ? h->bias[at] : 0.0f;
    }
    ban_ends(s);
}

static void init_dry(og_dry *d, const og_config *c, const arrays *a, const extents *n) {
    d->params = c->params.dry;
    d->params.last_n = window_of(d->params.last_n);
    d->tokens = a->tokens;
    d->repeats = a->repeats;
    d->capacity = n->dry;
    d->breakers = a->breakers;
    d->n_breakers = n->breakers;
    d->tails = a->tails;
    const int32_t *tokens = c->breakers;
    for (int32_t i = 0; i < n->breakers; i++) {
        const og_breaker breaker = {tokens[0], d->n_tails, c->breaker_lengths[i] - 1};
        for (int32_t k = 0; k < breaker.tail_length; k++) a->tails[d->n_tails++] = tokens[k + 1];
        tokens += c->breaker_lengths[i];
        int32_t at = i;
        for (; at > 0 && a->breakers[at - 1].head > breaker.head; at--) {
            a->breakers[at] = a->breakers[at - 1];
        }
        a->breakers[at] = breaker;
    }
}

void og_sampler_init(og_sampler *s, const og_config *config, void *memory) {
    const extents n = extents_of(config);
    arrays a;
    lay_out(&a, memory, &n);
    memset(s, 0, sizeof *s);
    s->kernels = config->kernels != NULL ? config->kernels : og_kernels_best();
    s->n_vocab = config->n_vocab;
    s->params = config->params;
    s->seed = config->seed;
    s->choice = config->choice;
    s->mu = 2.0 * (double)config->params.mirostat_tau;
    s->adaptive_mean = (double)config->params.adaptive_target;
    s->counts = og_params_need_counts(&config->params);
    init_history(s, config, &a, &n);
    init_dry(&s->dry, config, &a, &n);
}

bool og_sampler_is_full(const og_sampler *s) {
    if (!s->counts) return false;
    /* A history that contains all tokens needs no room for another. */
    return (og_history_is_full(&s->history) && s->history.n < s->n_vocab) ||
           (og_dry_is_on(&s->dry.params) && og_dry_is_full(&s->dry));
}

static void *copy(void *to, const void *from, size_t bytes) {
    if (bytes > 0) memcpy(to, from, bytes);
    return to;
}

void og_sampler_reserve(og_sampler *s, int32_t tokens, void *memory) {
    const extents n = extents_grown(s, tokens);
    og_history *h = &s->history;
    og_dry *d = &s->dry;
    arrays a;
    lay_out(&a, memory, &n);
    og_history_grow(h, a.history, n.history);
    h->in_block = copy(a.in_block, h->in_block, (size_t)n.blocks * sizeof *a.in_block);
    if (n.ring > 0) h->ring = copy(a.ring, h->ring, (size_t)n.ring * sizeof *a.ring);
    s->ends = copy(a.ends, s->ends, (size_t)n.ends * sizeof *a.ends);
    d->breakers = copy(a.breakers, d->breakers, (size_t)n.breakers * sizeof *a.breakers);
    d->tails = copy(a.tails, d->tails, (size_t)n.tails * sizeof *a.tails);
    d->tokens = copy(a.tokens, d->tokens, (size_t)d->n * sizeof *a.tokens);
    d->repeats = a.repeats;
    d->capacity = n.dry;
}

int32_t og_sampler_lookback(const og_sampler *s) {
    return og_dry_is_on(&s->dry.params) ? -1 : s->history.last_n;
}

/* --- counting tokens -------------------------------------------------------------------------- */

/* Count a token of the prompt or of the answer. */
static void count_token(og_sampler *s, int32_t token, bool generated) {
    if (!s->counts) return;
    og_history_add(&s->history, token, generated);
    if (og_dry_is_on(&s->dry.params)) og_dry_add(&s->dry, token);
}

void og_sampler_accept_prompt(og_sampler *s, int32_t token) { count_token(s, token, false); }

void og_sampler_accept(og_sampler *s, int32_t token) {
    s->n_generated++;
    if (s->n_generated == s->params.min_tokens) {
        for (int32_t i = 0; i < s->n_ends; i++) {
            og_history_set_bias(&s->history, s->ends[i].token, s->ends[i].bias);
        }
    }
    count_token(s, token, true);
}

void og_sampler_restart(og_sampler *s) {
    s->n_generated = 0;
    og_history_restart(&s->history);
    ban_ends(s);
    s->dry.n = 0;
}

double og_sampler_uniform(const og_sampler *s, uint32_t stream) {
    return og_philox_uniform(s->seed, s->choice, s->position, stream + OG_STREAMS * s->rewinds);
}
