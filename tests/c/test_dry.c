/* og_dry against the definition, word for word (rig_adjusted). */
#include "og_dry.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "rig.h"

enum { N_VOCAB = 12, MAX_BREAKERS = 4, MAX_TAILS = 8 };

/* Breakers of few tokens, ascending by head. */
static void fill_breakers(rig_spec *spec, og_breaker *breakers, int32_t *tails, uint64_t *random) {
    int32_t n = 0, n_tails = 0;
    for (int32_t head = 0; head < N_VOCAB && n < MAX_BREAKERS; head++) {
        while (n < MAX_BREAKERS && random_below(random, 8) == 0) {
            const og_breaker breaker = {head, n_tails, random_below(random, 3)};
            for (int32_t i = 0; i < breaker.tail_length; i++) {
                tails[n_tails++] = random_below(random, 3);
            }
            breakers[n++] = breaker;
        }
    }
    spec->breakers = breakers;
    spec->n_breakers = n;
    spec->tails = tails;
    spec->n_tails = n_tails;
}

/* Draw one step and compare what the kernels made of every token with the definition. */
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
        CHECK(got == expected[id], "token %d: %a, not %a, after %d tokens (allowed %d, last %d)", id,
              (double)got, (double)expected[id], n, spec->dry_allowed_length, spec->dry_last_n);
    }
}

static void test(uint64_t seed) {
    static const int32_t windows[] = {-1, 1, 2, 3, 8, 30};
    enum { STEPS = 90 };
    og_breaker breakers[MAX_BREAKERS];
    int32_t tails[MAX_TAILS], tokens[STEPS];
    rig_spec spec = {.n_vocab = N_VOCAB, .repeat_last_n = 0};
    spec.params.temperature = 1.0f;
    spec.params.typical_p = spec.params.top_p = spec.params.penalties.repetition = 1.0f;
    spec.dry_multiplier = 0.75f;
    spec.dry_base = random_below(&seed, 2) ? 1.75f : 1e30f; /* the second overflows */
    spec.dry_allowed_length = random_below(&seed, 4);
    spec.dry_last_n = windows[random_below(&seed, 6)];
    fill_breakers(&spec, breakers, tails, &seed);
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
