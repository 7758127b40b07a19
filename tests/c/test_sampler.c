/* Whole draws with every array beside a guard page: rows and masks that can only be read, the
 * sampler's own memory exactly as large as the headers ask for. */
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

enum { SETTINGS = 9 };

/* A row of parameters for every path through a draw. */
static og_params params_of(int setting) {
    og_params p = {.temperature = 1.0f, .typical_p = 1.0f, .top_p = 1.0f, .xtc_threshold = 0.1f,
                   .mirostat_tau = 3.0f, .mirostat_eta = 0.1f, .dynatemp_exponent = 1.0f,
                   .penalties = {1.0f, 0.0f, 0.0f}};
    switch (setting) {
    case 0: p.temperature = 0.0f; break;
    case 1: p.top_p = 0.9f; p.penalties.frequency = 0.5f; break;
    case 2: p.top_k = 5; p.top_p = 0.95f; p.min_p = 0.05f; break;
    case 3: p.typical_p = 0.7f; p.min_keep = 3; break;
    case 4: p.top_n_sigma = 1.0f; p.penalties.repetition = 1.3f; break;
    case 5: p.xtc_probability = 1.0f; p.min_p = 0.01f; break;
    case 6: p.mirostat = 1; break;
    case 7: p.mirostat = 2; p.dynatemp_range = 0.5f; break;
    default: p.penalties.presence = 1.0f; p.top_k = 40; break;
    }
    return p;
}

static void check_draw(rig *r, const float *row, const uint32_t *mask, int32_t n, int setting) {
    const uint64_t before = r->sampler.position;
    int32_t token = -1;
    const int status = og_sampler_draw(&r->sampler, &r->scratch, row, mask, &token);
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
    og_logprobs(&r->sampler, &r->scratch, row, token, &logprob, top, n_top);
    CHECK(logprob <= 1e-6f && top[0].logprob >= logprob, "n %d: logprob %g", n, (double)logprob);
    guard_give(top);
    rig_accept(r, token);
}

/* The distribution that was drawn from: og_logprobs uses the same scratch, so this draws again. */
static void check_post(rig *r, const float *row, const uint32_t *mask, int32_t n) {
    int32_t token;
    if (og_sampler_draw(&r->sampler, &r->scratch, row, mask, &token) != OG_OK) return;
    const int32_t n_top = n < 7 ? n : 7;
    og_candidate *top = guard_take((size_t)n_top * sizeof *top, side);
    float logprob = 1.0f;
    og_post_logprobs(&r->scratch, token, &logprob, top, n_top);
    CHECK(logprob <= 1e-6f && top[0].token >= 0, "n %d: logprob %g", n, (double)logprob);
    guard_give(top);
}

/* A row that nothing is drawn from: the first and the last token, against the one drawn best. */
static void check_score(rig *r, const float *row, int32_t n) {
    const int32_t n_top = n < 7 ? n : 7;
    og_candidate *top = guard_take((size_t)n_top * sizeof *top, side);
    for (int last = 0; last < 2; last++) {
        const int32_t token = last ? n - 1 : 0;
        float logprob = 1.0f;
        int32_t rank = 0;
        const int status =
            og_score(&r->sampler, &r->scratch, row, token, &logprob, &rank, top, n_top);
        if (status != OG_OK) {
            CHECK(status == OG_ERR_NO_CANDIDATE && rank == 0, "n %d: %d", n, status);
            continue;
        }
        CHECK(rank >= 1 && rank <= n && top[0].logprob >= logprob, "n %d: rank %d", n, rank);
        CHECK(rank > n_top || top[rank - 1].logprob == logprob, "n %d: rank %d", n, rank);
    }
    guard_give(top);
}

static void test(const og_kernels *K, int32_t n, int setting, uint64_t *random) {
    static float row[MAX_N];
    static uint32_t mask[MAX_N / 32 + 1];
    const int32_t prompt[] = {0, n - 1, n / 2, 0, n - 1, n / 2};
    const og_end biases[MAX_BIASES] = {{0, 2.0f}, {n - 1, -INFINITY}, {n / 2, -1.5f}};
    const og_end ends[1] = {{n - 1, 0.0f}};
    const og_breaker breakers[1] = {{n / 2, 0, 1}};
    const int32_t tails[1] = {n - 1};
    rig_spec spec = {.n_vocab = n, .params = params_of(setting), .repeat_last_n = 2,
                     .biases = biases, .n_biases = n > 2 ? setting % (MAX_BIASES + 1) : 0,
                     .ends = ends, .n_ends = n > 1, .min_tokens = setting % 3,
                     .dry_multiplier = setting % 2 ? 0.8f : 0.0f, .dry_base = 1.75f,
                     .dry_allowed_length = 1, .dry_last_n = setting % 3 ? -1 : 4,
                     .breakers = breakers, .n_breakers = 1, .tails = tails, .n_tails = 1,
                     .prompt = prompt, .n_prompt = 6, .seed = 11, .choice = 1};
    rig r;
    rig_init(&r, &spec, K, &guarded);
    for (int step = 0; step < STEPS; step++) {
        fill_row((enum row_kind)random_below(random, ROW_KINDS), random, row, n);
        fill_mask(random, mask, n, 4, random_below(random, n));
        const float *const_row = guard_copy(row, (size_t)n * sizeof *row, side);
        const uint32_t *const_mask = guard_copy(mask, (size_t)(n + 31) / 32 * 4, side);
        check_draw(&r, const_row, NULL, n, setting);
        check_draw(&r, const_row, const_mask, n, setting);
        check_post(&r, const_row, step ? const_mask : NULL, n);
        check_score(&r, const_row, n);
        guard_give(const_row);
        guard_give(const_mask);
    }
    rig_free(&r);
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
    return check_result("sampler");
}
