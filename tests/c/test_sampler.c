/* Whole draws with every array next to a guard page: rows and masks are read-only, and the
 * sampler's memory has exactly the size required by the headers. */
#include "og_sampler.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "guard.h"
#include "rig.h"
#include "rows.h"

enum { MAX_N = 4096 + 17, MAX_BIASES = 3, STEPS = 3 };

static enum guard_side side;

static void *take(size_t bytes) { return guard_take(bytes, side); }
static void give(void *memory) { guard_give(memory); }
static const rig_memory guarded = {take, give};

enum { SETTINGS = 11 };

/* Parameters for every path through a draw. */
static void set_params(og_params *p, int setting) {
    p->repeat_last_n = 2;
    p->min_tokens = setting % 3;
    p->mirostat_tau = 3.0f;
    p->dry.multiplier = setting % 2 ? 0.8f : 0.0f;
    p->dry.allowed_length = 1;
    p->dry.last_n = setting % 3 ? -1 : 4;
    switch (setting) {
    case 0: p->temperature = 0.0f; break;
    case 1:
        p->top_p = 0.9f;
        p->penalties.frequency = 0.5f;
        break;
    case 2:
        p->top_k = 5;
        p->top_p = 0.95f;
        p->min_p = 0.05f;
        break;
    case 3:
        p->typical_p = 0.7f;
        p->min_keep = 3;
        break;
    case 4:
        p->top_n_sigma = 1.0f;
        p->penalties.repetition = 1.3f;
        break;
    case 5:
        p->xtc_probability = 1.0f;
        p->min_p = 0.01f;
        break;
    case 6: p->mirostat = 1; break;
    case 7: p->p_less = true; break;
    case 8: p->adaptive_target = 0.4f; break;
    case 9:
        p->mirostat = 2;
        p->dynatemp_range = 0.5f;
        break;
    default:
        p->penalties.presence = 1.0f;
        p->top_k = 40;
        break;
    }
}

static void check_draw(rig *r, const float *row, const uint32_t *mask, int32_t n, int setting) {
    const uint64_t before = r->sampler.position;
    int32_t token = -1;
    const enum og_status status = og_sampler_draw(&r->sampler, &r->scratch, row, mask, &token);
    CHECK(status == OG_OK || status == OG_ERR_NO_CANDIDATE, "n %d, setting %d: %d", n, setting,
          status);
    if (status != OG_OK) {
        CHECK(token == -1 && r->sampler.position == before, "n %d, setting %d", n, setting);
        return;
    }
    CHECK(token >= 0 && token < n && r->sampler.position == before + 1, "token %d of %d", token, n);
    CHECK(mask == NULL || (mask[token / 32] >> token % 32 & 1u), "token %d is masked", token);
    const int32_t n_top = n < 7 ? n : 7;
    og_candidate *top = guard_take((size_t)n_top * sizeof *top, side);
    float logprob = 1.0f;
    og_sampler_logprobs(&r->sampler, &r->scratch, row, token, &logprob, top, n_top);
    CHECK(logprob <= 1e-6f && top[0].logprob >= logprob, "n %d: logprob %g", n, (double)logprob);
    guard_give(top);
    rig_accept(r, token);
}

/* The distribution of the draw: og_sampler_logprobs uses the same scratch, so this draws
 * again. */
static void check_post(rig *r, const float *row, const uint32_t *mask, int32_t n) {
    int32_t token;
    if (og_sampler_draw(&r->sampler, &r->scratch, row, mask, &token) != OG_OK) return;
    const int32_t n_top = n < 7 ? n : 7;
    og_candidate *top = guard_take((size_t)n_top * sizeof *top, side);
    float logprob = 1.0f;
    og_scratch_logprobs(&r->scratch, token, &logprob, top, n_top);
    CHECK(logprob <= 1e-6f && top[0].token >= 0, "n %d: logprob %g", n, (double)logprob);
    guard_give(top);
}

/* The whole distribution, and a sampler that is told the token that it would have drawn. */
static void check_distribution(rig *r, const float *row, const uint32_t *mask, int32_t n) {
    og_sampler *s = &r->sampler;
    const uint64_t position = s->position;
    const double mu = s->mu, mean = s->adaptive_mean;
    double *probabilities = guard_take((size_t)n * sizeof *probabilities, side);
    float temperature = -1.0f;
    const enum og_status status =
        og_sampler_distribution(s, &r->scratch, row, mask, probabilities, &temperature);
    CHECK(s->position == position && s->mu == mu, "n %d: the state has moved", n);
    int32_t *tokens = guard_take(STEPS * sizeof *tokens, side);
    CHECK(og_sampler_draws(s, &r->scratch, row, mask, STEPS, tokens) == status, "n %d", n);
    CHECK(s->position == position && s->mu == mu, "n %d: the state has moved", n);
    if (status == OG_OK) {
        double total = 0.0;
        for (int32_t i = 0; i < n; i++) total += probabilities[i];
        CHECK(total > 0.999 && total < 1.001 && temperature >= 0.0f, "n %d: %g", n, total);
        int32_t token = -1;
        CHECK(og_sampler_draw(s, &r->scratch, row, mask, &token) == OG_OK, "n %d", n);
        CHECK(token >= 0 && probabilities[token] > 0.0, "n %d: token %d", n, token);
        CHECK(tokens[0] == token, "n %d: token %d, not %d", n, tokens[0], token);
        const double drawn_mu = s->mu, drawn_mean = s->adaptive_mean;
        s->position = position;
        s->mu = mu;
        s->adaptive_mean = mean;
        CHECK(og_sampler_follow(s, &r->scratch, row, mask, token) == OG_OK, "n %d", n);
        CHECK(s->position == position + 1 && s->mu == drawn_mu && s->adaptive_mean == drawn_mean,
              "n %d: mu %g, not %g", n, s->mu, drawn_mu);
    }
    guard_give(tokens);
    guard_give(probabilities);
}

/* Score the first and the last token without a draw, against the most likely one. */
static void check_score(rig *r, const float *row, int32_t n) {
    const int32_t n_top = n < 7 ? n : 7;
    og_candidate *top = guard_take((size_t)n_top * sizeof *top, side);
    for (int last = 0; last < 2; last++) {
        const int32_t token = last ? n - 1 : 0;
        float logprob = 1.0f;
        int32_t rank = 0;
        const enum og_status status =
            og_sampler_score(&r->sampler, &r->scratch, row, token, &logprob, &rank, top, n_top);
        if (status != OG_OK) {
            CHECK(status == OG_ERR_NO_CANDIDATE && rank == 0, "n %d: %d", n, status);
            continue;
        }
        CHECK(rank >= 1 && rank <= n && top[0].logprob >= logprob, "n %d: rank %d", n, rank);
        CHECK(rank > n_top || top[rank - 1].logprob == logprob, "n %d: rank %d", n, rank);
    }
    guard_give(top);
}

static void test(const og_kernels *kernels, int32_t n, int setting, uint64_t *random) {
    static float row[MAX_N];
    static uint32_t mask[MAX_N / 32 + 1];
    const int32_t prompt[] = {0, n - 1, n / 2, 0, n - 1, n / 2};
    const og_bias biases[MAX_BIASES] = {{0, 2.0f}, {n - 1, -INFINITY}, {n / 2, -1.5f}};
    const int32_t ends[1] = {n - 1};
    const int32_t breakers[2] = {n / 2, n - 1}, breaker_lengths[1] = {2};
    rig_spec spec = {.prompt = prompt, .n_prompt = 6};
    og_config *c = &spec.config;
    og_config_init(c, n);
    set_params(&c->params, setting);
    c->seed = 11;
    c->choice = 1;
    c->biases = biases;
    c->n_biases = n > 2 ? setting % (MAX_BIASES + 1) : 0;
    c->ends = ends;
    c->n_ends = n > 1;
    c->breakers = breakers;
    c->breaker_lengths = breaker_lengths;
    c->n_breakers = 1;
    rig r;
    rig_init(&r, &spec, kernels, &guarded);
    for (int step = 0; step < STEPS; step++) {
        fill_row((enum row_kind)random_below(random, ROW_KINDS), random, row, n);
        fill_mask(random, mask, n, 4, random_below(random, n));
        const float *const_row = guard_copy(row, (size_t)n * sizeof *row, side);
        const uint32_t *const_mask = guard_copy(mask, (size_t)(n + 31) / 32 * 4, side);
        check_draw(&r, const_row, NULL, n, setting);
        check_draw(&r, const_row, const_mask, n, setting);
        check_post(&r, const_row, step ? const_mask : NULL, n);
        check_score(&r, const_row, n);
        check_distribution(&r, const_row, step ? const_mask : NULL, n);
        guard_give(const_row);
        guard_give(const_mask);
    }
    rig_free(&r);
}

/* og_sampler_reserve makes the requested room and moves the sampler's contents. */
static void check_reserve(const og_params *params, int32_t n_vocab) {
    enum { MORE = 150 };
    const og_bias biases[] = {{1, 2.0f}, {3, -2.0f}, {1, 0.5f}};
    const int32_t ends[] = {3, 0, 3}, breakers[] = {7, 5, 6, 2}, lengths[] = {1, 3};
    rig_spec spec = {.n_prompt = 0};
    og_config *c = &spec.config;
    og_config_init(c, n_vocab);
    c->params = *params;
    c->params.min_tokens = MORE + 1;
    c->biases = biases;
    c->n_biases = 3;
    c->ends = ends;
    c->n_ends = 3;
    c->breakers = breakers;
    c->breaker_lengths = lengths;
    c->n_breakers = 2;
    rig r;
    rig_init(&r, &spec, NULL, &rig_heap);
    og_sampler *s = &r.sampler;
    const size_t bytes = og_sampler_reserve_bytes(s, MORE);
    void *larger = rig_heap.take(bytes);
    og_sampler_reserve(s, MORE, larger);
    rig_heap.give(r.sampler_memory);
    r.sampler_memory = larger;
    CHECK(bytes % OG_ALIGNMENT == 0 && og_sampler_reserve_bytes(s, 1) == bytes, "%zu bytes", bytes);
    for (int32_t i = 0; i < MORE; i++) {
        CHECK(!og_sampler_is_full(s), "full after %d tokens of %d", i, MORE);
        og_sampler_accept(s, i % n_vocab);
    }
    const og_history *h = &s->history;
    CHECK(h->bias[og_history_find(h, 1)] == 0.5f, "the last bias of a token counts");
    CHECK(h->bias[og_history_find(h, 0)] == -INFINITY, "an end before min_tokens");
    rig_accept(&r, 2);
    const int32_t freed = og_history_find(h, 0), biased = og_history_find(h, 3);
    CHECK(freed < 0 || h->bias[freed] == 0.0f, "an end after min_tokens");
    CHECK(biased >= 0 && h->bias[biased] == -2.0f, "a biased end after min_tokens");
    rig_free(&r);
}

static void check_reserves(void) {
    static const int32_t windows[] = {-1, 0, 2, 200, OG_MAX_WINDOW + 1};
    og_config c;
    for (int i = 0; i < 5 * 5 * 2; i++) {
        og_config_init(&c, 1);
        c.params.repeat_last_n = windows[i % 5];
        c.params.dry.last_n = windows[i / 5 % 5];
        c.params.penalties.repetition = 1.5f;
        c.params.dry.multiplier = i < 25 ? 0.8f : 0.0f;
        check_reserve(&c.params, 8);
        check_reserve(&c.params, 1000);
    }
}

int main(void) {
    int32_t lengths[MAX_LENGTHS];
    const og_kernels *kernels[MAX_ISAS];
    const int isas = all_kernels(kernels), count = test_lengths(lengths);
    for (int isa = 0; isa < isas; isa++) {
        uint64_t random = 4;
        for (int i = 0; i < count; i++) {
            for (int setting = 0; setting < SETTINGS; setting++) {
                side = (i + setting) % 2 ? GUARD_BEHIND : GUARD_BEFORE;
                test(kernels[isa], lengths[i], setting, &random);
                side = side == GUARD_BEHIND ? GUARD_BEFORE : GUARD_BEHIND;
                test(kernels[isa], lengths[i], setting, &random);
            }
        }
    }
    check_reserves();
    return check_result("sampler");
}
