/* Whole draws: bytes -> parameters, the tokens of the sequence, and rows with all possible values.
 * Every instruction set draws; the results are checked against the guarantees of og_sampler.h and
 * against a definition that is computed token by token (rig_adjusted). */
#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "check.h"
#include "fuzz.h"
#include "rig.h"

enum { MAX_N = 12000, MAX_PROMPT = 40, MAX_BIASES = 8, MAX_ENDS = 3, MAX_BREAKERS = 4 };
enum { MAX_STEPS = 6, MAX_TOP = 20 };

typedef struct scene {
    rig_spec spec;
    og_bias biases[MAX_BIASES];
    int32_t ends[MAX_ENDS];
    int32_t breakers[3 * MAX_BREAKERS];
    int32_t breaker_lengths[MAX_BREAKERS];
    int32_t prompt[MAX_PROMPT];
    int32_t generated[MAX_STEPS];
    int32_t n_generated;
    float row[MAX_N];
    float adjusted[MAX_N];
    uint32_t mask_words[(MAX_N + 31) / 32];
    bool masked;
    int32_t n_top;
    bool post_first;
} scene;

/* The result of one instruction set for a step. */
typedef struct outcome {
    enum og_status status;
    int32_t token;
    double mu;
    float logprob, post_logprob;
    og_candidate top[MAX_TOP], post_top[MAX_TOP];
} outcome;

/* --- bytes -> scene --------------------------------------------------------------------------- */

static float pick(input *in, const float *values, int32_t n) { return values[read_below(in, n)]; }
#define PICK(in, ...)                      \
    pick(in, (const float[]){__VA_ARGS__}, \
         (int32_t)(sizeof((const float[]){__VA_ARGS__}) / sizeof(float)))

static int32_t read_length(input *in) {
    static const int32_t borders[] = {512, 1024, 2048, 4096};
    const int32_t kind = read_below(in, 8);
    if (kind < 4) return 1 + read_below(in, 80);
    if (kind < 6) return borders[read_below(in, 4)] - 17 + read_below(in, 35);
    return 1 + read_below(in, kind == 6 ? 3000 : MAX_N);
}

static void read_params(input *in, int32_t n, og_params *p) {
    const uint32_t which = read_byte(in) | read_byte(in) << 8;
    p->temperature = PICK(in, 1.0f, 0.0f, 0.7f, 1.5f, 0.1f, 1e-3f, 1e-30f, 1e-45f, 100.0f, 1e6f);
    if (which & 1) p->top_p = PICK(in, 0.95f, 0.0f, 0.5f, 0.1f, 0.999f, 0.9999999f, 1e-45f);
    if (which & 2) p->top_k = 1 + read_below(in, which & 4 ? n + 2 : 50);
    if (which & 8) p->min_p = PICK(in, 0.05f, 1.0f, 0.3f, 1e-6f, 1e-45f);
    if (which & 16) p->typical_p = PICK(in, 0.9f, 0.0f, 0.5f, 0.99f);
    if (which & 32) p->top_n_sigma = PICK(in, 1.0f, 0.1f, 3.0f, 1e-45f, 1e6f);
    if (which & 64) p->xtc_probability = PICK(in, 1.0f, 0.5f);
    if (which & 64) p->xtc_threshold = PICK(in, 0.1f, 0.0f, 0.5f, 0.02f);
    if (which & 128) p->dynatemp_range = PICK(in, 0.5f, 1.0f, 1e6f, 1e-45f);
    if (which & 128) p->dynatemp_exponent = PICK(in, 1.0f, 0.0f, 2.0f, 100.0f);
    if ((which & 0x300) == 0x300) p->mirostat = 1 + read_below(in, 2);
    if (p->mirostat) p->mirostat_tau = PICK(in, 5.0f, 0.0f, 1.0f, 100.0f);
    if (p->mirostat) p->mirostat_eta = PICK(in, 0.1f, 0.0f, 1.0f, 10.0f);
    if (which & 0x400) p->min_keep = read_below(in, 60);
    if (which & 0x800) p->penalties.frequency = PICK(in, 0.5f, -2.0f, 2.0f, 1e-45f);
    if (which & 0x1000) p->penalties.presence = PICK(in, 0.5f, -2.0f, 2.0f);
    if (which & 0x4000) p->p_less = true;
    if (which & 0x8000) p->adaptive_target = PICK(in, 0.5f, 0.0f, 1.0f, 0.1f);
    if (which & 0x8000) p->adaptive_decay = PICK(in, 0.9f, 0.0f, 0.99f);
    if (which & 0x2000) p->penalties.repetition = PICK(in, 1.1f, 0.5f, 2.0f, 1e3f, 1e-3f);
}

static bool holds(const og_bias *list, int32_t n, int32_t token) {
    for (int32_t i = 0; i < n; i++) {
        if (list[i].token == token) return true;
    }
    return false;
}

/* Up to `most` tokens with a bias, each once. */
static int32_t read_biases(input *in, int32_t n_vocab, og_bias *list, int32_t most) {
    int32_t n = 0;
    for (int32_t left = read_below(in, most + 1); left > 0; left--) {
        const og_bias entry = {read_below(in, n_vocab),
                               PICK(in, -INFINITY, 1.0f, 100.0f, -100.0f, 0.0f, 1e-45f, -1.5f)};
        if (!holds(list, n, entry.token)) list[n++] = entry;
    }
    return n;
}

/* End tokens are read like biases, so that inputs of the corpus keep their meaning. */
static int32_t read_ends(input *in, int32_t n_vocab, int32_t *ends) {
    og_bias list[MAX_ENDS];
    const int32_t n = read_biases(in, n_vocab, list, MAX_ENDS);
    for (int32_t i = 0; i < n; i++) ends[i] = list[i].token;
    return n;
}

static void read_breakers(input *in, scene *s) {
    og_config *c = &s->spec.config;
    const int32_t tail_kinds = c->n_vocab < 8 ? c->n_vocab : 8;
    int32_t head = 0, n_tokens = 0;
    c->n_breakers = read_below(in, MAX_BREAKERS + 1);
    for (int32_t b = 0; b < c->n_breakers; b++) {
        head += read_below(in, 3);
        if (head >= c->n_vocab) head = c->n_vocab - 1;
        s->breaker_lengths[b] = 1 + read_below(in, 3);
        s->breakers[n_tokens++] = head;
        for (int32_t i = 1; i < s->breaker_lengths[b]; i++) {
            s->breakers[n_tokens++] = read_below(in, tail_kinds);
        }
    }
    c->breakers = s->breakers;
    c->breaker_lengths = s->breaker_lengths;
}

static void read_spec(input *in, scene *s) {
    static const int32_t windows[] = {64, -1, 0, 1, 2, 7};
    rig_spec *spec = &s->spec;
    og_config *c = &spec->config;
    og_params *p = &c->params;
    const int32_t n = read_length(in);
    og_config_init(c, n);
    read_params(in, n, p);
    p->repeat_last_n = windows[read_below(in, 6)];
    c->biases = s->biases;
    c->n_biases = read_biases(in, n, s->biases, MAX_BIASES);
    c->ends = s->ends;
    c->n_ends = read_ends(in, n, s->ends);
    p->min_tokens = read_below(in, 4);
    p->dry.multiplier = PICK(in, 0.0f, 0.8f, 100.0f);
    p->dry.base = PICK(in, 1.75f, 1.0f, 1e20f);
    p->dry.allowed_length = read_below(in, 4);
    p->dry.last_n = (const int32_t[]){-1, 1, 2, 5, 30}[read_below(in, 5)];
    read_breakers(in, s);
    spec->prompt = s->prompt;
    spec->n_prompt = read_below(in, MAX_PROMPT + 1);
    const int32_t different = 1 + read_below(in, n < 9 ? n : 9);
    for (int32_t i = 0; i < spec->n_prompt; i++) {
        s->prompt[i] = n - 1 - read_below(in, different) * (n / different);
    }
    c->seed = (uint64_t)read_word(in) << 32 | 0x5EED;
    c->choice = read_byte(in);
}

static float any_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Values that cause errors in rows. */
static float special(input *in) {
    static const float values[] = {0.0f,    -0.0f,    -INFINITY, FLT_MAX, -FLT_MAX,
                                   FLT_MIN, -FLT_MIN, 0x1p-149f, 20.0f,   -20.0f,
                                   1e30f,   NAN,      INFINITY};
    const int32_t which = read_below(in, 20);
    return which < 13 ? values[which] : any_float(read_word(in));
}

/* A whole row from a few bytes. */
static void read_row(input *in, float *row, int32_t n) {
    const int32_t kind = read_below(in, 8);
    uint64_t random = read_byte(in);
    const float scale = PICK(in, 1.0f, 8.0f, 0.0f, 1e-3f, 60.0f, 1e37f);
    const float few[4] = {special(in), special(in), special(in), special(in)};
    for (int32_t i = 0; i < n; i++) {
        const float unit = random_unit(&random);
        switch (kind) {
        case 0: row[i] = unit * scale; break;
        case 1: row[i] = (float)(int32_t)(unit * 4.0f) * scale; break;
        case 2: row[i] = few[random_below(&random, 4)]; break;
        case 3: row[i] = unit > 0.98f ? 20.0f + unit : unit * scale; break;
        case 4: row[i] = -logf(0.5f * (unit + 1.0f) + 1e-7f) * scale; break;
        case 5: row[i] = i % 97 == 0 ? scale : -INFINITY; break;
        case 6: row[i] = (float)(i / 61 % 7) * scale; break;
        default: row[i] = any_float(read_word(in)); break;
        }
    }
}

static void read_step(input *in, scene *s, bool first) {
    const int32_t n = s->spec.config.n_vocab;
    if (first || read_below(in, 3) == 0) read_row(in, s->row, n);
    for (int32_t left = read_below(in, 12); left > 0; left--) {
        const int32_t at = read_below(in, n);
        s->row[at] = special(in);
    }
    s->masked = read_below(in, 2);
    if (s->masked) {
        const int32_t density = read_below(in, 9);
        uint64_t random = read_byte(in);
        memset(s->mask_words, 0, sizeof s->mask_words);
        for (int32_t i = 0; i < n; i++) {
            if (random_below(&random, 8) < density) s->mask_words[i / 32] |= 1u << i % 32;
        }
    }
    s->n_top = read_below(in, MAX_TOP + 1);
    if (s->n_top > n) s->n_top = n;
    s->post_first = read_below(in, 2);
}

/* --- guarantees ------------------------------------------------------------------------------- */

static float largest(const float *values, int32_t n) {
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) max = values[i] > max ? values[i] : max;
    return max;
}

static enum og_status expected_status(const scene *s) {
    enum og_status status = OG_OK;
    for (int32_t i = 0; i < s->spec.config.n_vocab; i++) {
        if (s->row[i] != s->row[i]) return OG_ERR_NAN;
        if (s->row[i] == INFINITY) status = OG_ERR_INFINITE;
    }
    if (status != OG_OK) return status;
    const float max = largest(s->adjusted, s->spec.config.n_vocab);
    if (max == INFINITY) return OG_ERR_INFINITE;
    return max == -INFINITY ? OG_ERR_NO_CANDIDATE : OG_OK;
}

/* Whether keeping a token depends only on its weight and the larger ones. */
static bool only_top_p(const og_params *p) {
    return p->mirostat == 0 && p->typical_p >= 1.0f && !(p->top_n_sigma > 0.0f) && p->top_k <= 0 &&
           !(p->dynatemp_range > 0.0f) && p->min_keep <= 1;
}

/* top_p and min_p, with a tolerance for the rounding of float32 weights. */
static void check_mass(const scene *s, int32_t token, float max) {
    const og_params *p = &s->spec.config.params;
    const double lowest = ((double)s->adjusted[token] - (double)max) / (double)p->temperature;
    const double own = exp(lowest);
    double total = 0.0, above = 0.0;
    for (int32_t i = 0; i < s->spec.config.n_vocab; i++) {
        const double l = ((double)s->adjusted[i] - (double)max) / (double)p->temperature;
        total += exp(l);
        /* Values closer than this may be tied after rounding. */
        if (l - lowest > 1e-6 + 6e-7 * fabs(lowest)) above += exp(l);
    }
    PROMISE(p->top_p >= 1.0f || above <= ((double)p->top_p + 1e-5) * total,
            "token %d is outside the nucleus: %g of %g", token, above, total);
    PROMISE(own >= (double)p->min_p * (1.0 - 1e-4), "token %d is below min_p: %g", token, own);
}

static void check_token(const scene *s, int32_t token) {
    const og_params *p = &s->spec.config.params;
    const int32_t n = s->spec.config.n_vocab;
    PROMISE(token >= 0 && token < n, "token %d of %d", token, n);
    PROMISE(s->adjusted[token] > -INFINITY, "token %d is at -infinity", token);
    const float max = largest(s->adjusted, n);
    int32_t above = 0, first = -1;
    for (int32_t i = n - 1; i >= 0; i--) {
        above += s->adjusted[i] > s->adjusted[token];
        if (s->adjusted[i] == max) first = i;
    }
    if (p->temperature < FLT_MIN) {
        PROMISE(token == first, "token %d, the largest is %d", token, first);
        return;
    }
    if (p->mirostat == 0 && p->top_k > 0) {
        const int32_t k = p->top_k > p->min_keep ? p->top_k : p->min_keep;
        PROMISE(above < k, "token %d has %d above it", token, above);
    }
    if (only_top_p(p)) check_mass(s, token, max);
}

/* Log-softmax of the unchanged row. */
static void check_logprobs(const scene *s, const outcome *out) {
    const int32_t n = s->spec.config.n_vocab;
    const double max = (double)largest(s->row, n);
    double total = 0.0;
    for (int32_t i = 0; i < n; i++) total += exp((double)s->row[i] - max);
    for (int32_t k = -1; k < s->n_top; k++) {
        const int32_t token = k < 0 ? out->token : out->top[k].token;
        const double got = (double)(k < 0 ? out->logprob : out->top[k].logprob);
        PROMISE(token >= 0 && token < n, "token %d of %d", token, n);
        const double expected = (double)s->row[token] - max - log(total);
        const bool low = got == -INFINITY && expected < -(double)FLT_MAX;
        PROMISE(low || fabs(got - expected) <= 1e-5 + 2e-7 * fabs(expected), "token %d: %g, not %g",
                token, got, expected);
    }
    if (s->n_top == 0) return;
    const int32_t last = out->top[s->n_top - 1].token;
    int32_t better = 0;
    for (int32_t i = 0; i < n; i++) {
        better += s->row[i] > s->row[last] || (s->row[i] == s->row[last] && i < last);
    }
    PROMISE(better == s->n_top - 1, "%d are better than the last of %d", better, s->n_top);
    for (int32_t k = 1; k < s->n_top; k++) {
        const int32_t a = out->top[k - 1].token, b = out->top[k].token;
        PROMISE(s->row[a] > s->row[b] || (s->row[a] == s->row[b] && a < b), "order at %d", k);
    }
}

/* The distribution of the draw. */
static void check_post(const scene *s, const outcome *out) {
    const float own = out->post_logprob;
    PROMISE(own <= 1e-5f && own > -INFINITY, "logprob %g", (double)own);
    double mass = 0.0;
    for (int32_t k = 0; k < s->n_top; k++) {
        const og_candidate c = out->post_top[k];
        const bool after = k > 0 && out->post_top[k - 1].token < 0;
        if (c.token < 0) {
            PROMISE(k > 0 && c.logprob == -INFINITY, "nothing at %d", k);
            continue;
        }
        PROMISE(!after && c.token < s->spec.config.n_vocab, "token %d at %d", c.token, k);
        PROMISE(s->adjusted[c.token] > -INFINITY, "token %d cannot be drawn", c.token);
        PROMISE(k == 0 || c.logprob <= out->post_top[k - 1].logprob, "order at %d", k);
        PROMISE(c.token != out->token || c.logprob == own, "two logprobs of token %d", c.token);
        mass += exp((double)c.logprob);
    }
    PROMISE(mass <= 1.0 + 1e-4, "mass %g", mass);
    PROMISE(s->n_top == 0 || out->post_top[0].logprob >= own, "the drawn one is better");
}

/* --- steps ------------------------------------------------------------------------------------ */

static void ask_logprobs(const scene *s, rig *r, const float *row, outcome *out) {
    og_candidate *top = malloc((size_t)s->n_top * sizeof *top); /* exact, for AddressSanitizer */
    for (int turn = 0; turn < 2; turn++) {
        const bool post = (turn == 0) == s->post_first;
        if (post) {
            og_scratch_logprobs(&r->scratch, out->token, &out->post_logprob, top, s->n_top);
        } else {
            og_sampler_logprobs(&r->sampler, &r->scratch, row, out->token, &out->logprob, top,
                                s->n_top);
        }
        if (s->n_top == 0) continue;
        memcpy(post ? out->post_top : out->top, top, (size_t)s->n_top * sizeof *top);
    }
    free(top);
}

static outcome step(const scene *s, rig *r, const float *row, const uint32_t *mask) {
    outcome out;
    memset(&out, 0, sizeof out);
    out.token = -7;
    const uint64_t before = r->sampler.position;
    const double mu = r->sampler.mu;
    out.status = og_sampler_draw(&r->sampler, &r->scratch, row, mask, &out.token);
    out.mu = r->sampler.mu;
    const bool drawn = out.status == OG_OK;
    PROMISE(r->sampler.position == before + drawn, "position %d", (int)r->sampler.position);
    if (drawn) {
        ask_logprobs(s, r, row, &out);
    } else {
        PROMISE(out.token == -7 && out.mu == mu, "a failure changed something");
    }
    return out;
}

/* One step of all instruction sets. */
static void run_step(scene *s, rig *rigs, int isas) {
    const size_t row_bytes = (size_t)s->spec.config.n_vocab * sizeof(float);
    const size_t mask_bytes = (size_t)(s->spec.config.n_vocab + 31) / 32 * sizeof(uint32_t);
    float *row = malloc(row_bytes);
    uint32_t *mask = s->masked ? malloc(mask_bytes) : NULL;
    memcpy(row, s->row, row_bytes);
    if (s->masked) memcpy(mask, s->mask_words, mask_bytes);
    rig_adjusted(&s->spec, row, mask, s->generated, s->n_generated, s->adjusted);
    const enum og_status expected = expected_status(s);
    outcome first;
    for (int i = 0; i < isas; i++) {
        const outcome out = step(s, &rigs[i], row, mask);
        PROMISE(memcmp(row, s->row, row_bytes) == 0, "the row was written to");
        PROMISE(mask == NULL || memcmp(mask, s->mask_words, mask_bytes) == 0, "the mask, too");
        PROMISE(out.status == expected, "status %d, not %d", out.status, expected);
        if (i == 0) first = out;
        PROMISE(memcmp(&out, &first, sizeof out) == 0, "%s: token %d, %s: %d",
                rigs[i].sampler.kernels->name, out.token, rigs[0].sampler.kernels->name,
                first.token);
        if (out.status == OG_OK) rig_accept(&rigs[i], out.token);
    }
    free(row);
    free(mask);
    if (first.status != OG_OK) return;
    check_token(s, first.token);
    check_logprobs(s, &first);
    check_post(s, &first);
    s->generated[s->n_generated++] = first.token;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static scene s;
    input in = {data, size};
    read_spec(&in, &s);
    const og_kernels *kernels[MAX_ISAS];
    rig rigs[MAX_ISAS];
    const int isas = all_kernels(kernels);
    for (int i = 0; i < isas; i++) rig_init(&rigs[i], &s.spec, kernels[i], &rig_heap);
    s.n_generated = 0;
    const int32_t steps = 1 + read_below(&in, MAX_STEPS);
    for (int32_t k = 0; k < steps; k++) {
        read_step(&in, &s, k == 0);
        run_step(&s, rigs, isas);
    }
    for (int i = 0; i < isas; i++) rig_free(&rigs[i]);
    return 0;
}
