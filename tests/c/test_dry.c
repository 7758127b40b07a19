/* og_dry against the literal definition (rig_adjusted). */
#include "og_dry.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "rig.h"

enum { N_VOCAB = 12, MAX_BREAKERS = 4 };

/* Breakers of few tokens. */
static void fill_breakers(og_config *c, int32_t *tokens, int32_t *lengths, uint64_t *random) {
    int32_t n = 0, n_tokens = 0;
    /* In half of the tests their first tokens ascend, in the other half they descend. */
    const bool descending = random_below(random, 2);
    for (int32_t i = 0; i < N_VOCAB && n < MAX_BREAKERS; i++) {
        while (n < MAX_BREAKERS && random_below(random, 8) == 0) {
            lengths[n] = 1 + random_below(random, 3);
            tokens[n_tokens++] = descending ? N_VOCAB - 1 - i : i;
            for (int32_t k = 1; k < lengths[n]; k++) tokens[n_tokens++] = random_below(random, 3);
            n++;
        }
    }
    c->breakers = tokens;
    c->breaker_lengths = lengths;
    c->n_breakers = n;
}

/* Draw one step and compare the kernels' result for every token with the definition. */
static void compare(rig *r, const rig_spec *spec, const int32_t *generated, int32_t n) {
    const float row[N_VOCAB] = {0.0f};
    float expected[N_VOCAB];
    int32_t token;
    rig_adjusted(spec, row, NULL, generated, n, expected);
    CHECK(og_sampler_draw(&r->sampler, &r->scratch, row, NULL, &token) == OG_OK, "draw");
    const og_history *h = &r->sampler.history;
    for (int32_t id = 0; id < N_VOCAB; id++) {
        const int32_t at = og_history_find(h, id);
        const float got = at < 0 ? row[id] : h->adjusted[at];
        CHECK(got == expected[id], "token %d: %a, not %a, after %d tokens (allowed %d, last %d)",
              id, (double)got, (double)expected[id], n, spec->config.params.dry.allowed_length,
              spec->config.params.dry.last_n);
    }
}

static void test(uint64_t seed) {
    static const int32_t windows[] = {-1, 1, 2, 3, 8, 30};
    enum { STEPS = 90 };
    int32_t breakers[3 * MAX_BREAKERS], lengths[MAX_BREAKERS], tokens[STEPS];
    rig_spec spec = {.n_prompt = 0};
    og_config_init(&spec.config, N_VOCAB);
    og_dry_params *p = &spec.config.params.dry;
    p->multiplier = 0.75f;
    p->base = random_below(&seed, 2) ? 1.75f : 1e30f; /* the second overflows */
    p->allowed_length = random_below(&seed, 4);
    p->last_n = windows[random_below(&seed, 6)];
    fill_breakers(&spec.config, breakers, lengths, &seed);
    rig r;
    rig_init(&r, &spec, og_kernels_best(), &rig_heap);
    const int32_t period = 1 + random_below(&seed, 6), kinds = 1 + random_below(&seed, N_VOCAB);
    for (int32_t n = 0; n < STEPS; n++) {
        /* Mostly periodic, so that there are repetitions. */
        const bool again = n >= period && random_below(&seed, 9) > 0;
        tokens[n] = again ? tokens[n - period] : random_below(&seed, kinds);
        rig_accept(&r, tokens[n]);
        compare(&r, &spec, tokens, n + 1);
    }
    rig_free(&r);
}

int main(void) {
    for (uint64_t seed = 1; seed <= 1000; seed++) test(seed);
    return check_result("dry");
}
