/* The kernels of every instruction set: the same bits, and not one byte outside their arrays.
 * Inputs and outputs are next to guard pages, inputs in read-only memory. */
#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "check.h"
#include "guard.h"
#include "rows.h"

enum { MAX_N = 4096 + 17, MAX_PADDED = MAX_N + OG_LANES, MAX_BLOCKS = MAX_N / OG_BLOCK + 1 };

/* One set of inputs. */
typedef struct inputs {
    int32_t n;
    enum guard_side side;
    const float *row;
    const uint32_t *mask;
    const float *weights; /* padded */
    const float *block_top;
    float max;
    float scale;
    og_touched touched;
    og_patch patch;
} inputs;

/* The kernels' results. */
typedef struct outputs {
    enum og_status status;
    double total;
    double moment;
    int32_t count;
    float block_max[MAX_BLOCKS];
    double block_sum[MAX_BLOCKS];
    float weights[MAX_PADDED];
    float values[MAX_PADDED + OG_SPARE];
    int32_t places[MAX_PADDED + OG_SPARE];
} outputs;

static const uint32_t *mask_of(const inputs *in, bool masked) { return masked ? in->mask : NULL; }

/* Copy the output of a kernel from a guarded array, and free the array. */
static void keep(void *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
    guard_give(from);
}

static void run_scan(const og_kernels *kernels, const inputs *in, bool masked, outputs *out) {
    const size_t bytes = (size_t)og_blocks(in->n) * sizeof(float);
    float *block_max = guard_take(bytes, in->side);
    out->status = kernels->scan(in->row, mask_of(in, masked), in->n, block_max);
    keep(out->block_max, block_max, out->status == OG_OK ? bytes : 0);
}

static void run_weigh(const og_kernels *kernels, const inputs *in, bool masked, bool patched,
                      outputs *out) {
    const size_t blocks = (size_t)og_blocks(in->n);
    const size_t bytes = (size_t)og_padded(in->n) * sizeof(float);
    float *weights = guard_take(bytes, in->side);
    double *block_sum = guard_take(blocks * sizeof(double), in->side);
    kernels->weigh(in->row, mask_of(in, masked), in->n, in->max, in->scale,
                   patched ? &in->patch : NULL, weights, block_sum);
    keep(out->weights, weights, bytes);
    keep(out->block_sum, block_sum, blocks * sizeof(double));
    if (masked || patched) return;
    /* In place of the logits. */
    static float row[MAX_PADDED];
    double sums[MAX_BLOCKS];
    memcpy(row, in->row, (size_t)in->n * sizeof *row);
    kernels->weigh(row, NULL, in->n, in->max, in->scale, NULL, row, sums);
    CHECK(memcmp(row, out->weights, bytes) == 0 &&
              memcmp(sums, out->block_sum, blocks * sizeof *sums) == 0,
          "%s, n %d: in place", kernels->name, in->n);
}

static void run_sum(const og_kernels *kernels, const inputs *in, float low, bool tops,
                    outputs *out) {
    const size_t bytes = (size_t)og_blocks(in->n) * sizeof(double);
    double *block_sum = guard_take(bytes, in->side);
    out->total = kernels->sum(in->weights, in->n, low, tops ? in->block_top : NULL, block_sum);
    keep(out->block_sum, block_sum, bytes);
}

static void run_bracket(const og_kernels *kernels, const inputs *in, float low, float high,
                        bool tops, int32_t capacity, outputs *out) {
    const size_t bytes = (size_t)(capacity + OG_SPARE) * sizeof(float);
    float *values = guard_take(bytes, in->side);
    int32_t *places = guard_take(bytes, in->side);
    out->total = kernels->bracket(in->weights, in->n, low, high, tops ? in->block_top : NULL,
                                  values, places, capacity, &out->count);
    /* The contents after the last one are undefined. With more than the capacity nothing is
     * guaranteed, not even the sum. */
    const bool useless = out->count > capacity;
    if (useless) {
        out->total = 0.0;
        out->count = capacity + 1;
    }
    const size_t used = useless ? 0 : (size_t)out->count * sizeof(float);
    keep(out->values, values, used);
    keep(out->places, places, used);
}

static void run_penalise(const og_kernels *kernels, const inputs *in, const og_penalties *penalties,
                         outputs *out) {
    const size_t bytes = (size_t)og_padded(in->touched.n) * sizeof(float);
    float *adjusted = guard_take(bytes, in->side);
    memset(adjusted, 0, bytes);
    kernels->penalise(in->row, &in->touched, penalties, adjusted);
    keep(out->weights, adjusted, (size_t)in->touched.n * sizeof(float));
}

/* --- all calls on one set of inputs ----------------------------------------------------------- */

enum { SCANS = 2, WEIGHS = 4, SUMS = 6, BRACKETS = 18, EXP_SUMS = 2, PENALISES = 3 };
enum { CALLS = SCANS + WEIGHS + SUMS + BRACKETS + EXP_SUMS + PENALISES };

/* Borders for sum and bracket, including values of the array. */
static float border_of(const inputs *in, int which) {
    if (which == 0) return FLT_MIN;
    if (which == 1) return in->weights[in->n / 2] > 0.0f ? in->weights[in->n / 2] : 0x1p-10f;
    return 0.5f;
}

static void call_bracket(const og_kernels *kernels, const inputs *in, int call, outputs *out) {
    const int32_t capacities[] = {1, in->n / 3 + 1, og_padded(in->n)};
    const float low = border_of(in, call / 6);
    const float high = call / 3 % 2 ? INFINITY : low + 0.25f;
    run_bracket(kernels, in, low, high, call % 2, capacities[call % 3], out);
}

static void call_exp_sum(const og_kernels *kernels, const inputs *in, bool with_moment,
                         outputs *out) {
    out->total =
        kernels->exp_sum(in->row, in->n, in->max, in->scale, with_moment ? &out->moment : NULL);
}

static void run_call(const og_kernels *kernels, const inputs *in, int call, outputs *out) {
    static const og_penalties penalties[PENALISES] = {
        {1.0f, 0.5f, 0.25f}, {1.3f, 0.0f, 0.0f}, {0.7f, -1.1f, 2.0f}};
    memset(out, 0, sizeof *out);
    if (call < SCANS) {
        run_scan(kernels, in, call, out);
    } else if ((call -= SCANS) < WEIGHS) {
        run_weigh(kernels, in, call & 1, call & 2, out);
    } else if ((call -= WEIGHS) < SUMS) {
        run_sum(kernels, in, border_of(in, call / 2), call % 2, out);
    } else if ((call -= SUMS) < BRACKETS) {
        call_bracket(kernels, in, call, out);
    } else if ((call -= BRACKETS) < EXP_SUMS) {
        call_exp_sum(kernels, in, call, out);
    } else {
        run_penalise(kernels, in, &penalties[call - EXP_SUMS], out);
    }
}

static void compare_all(const inputs *in, enum row_kind kind) {
    static outputs expected, got;
    const og_kernels *kernels[MAX_ISAS];
    const int isas = all_kernels(kernels);
    for (int call = 0; call < CALLS; call++) {
        run_call(kernels[0], in, call, &expected);
        for (int isa = 1; isa < isas; isa++) {
            run_call(kernels[isa], in, call, &got);
            CHECK(memcmp(&expected, &got, sizeof got) == 0, "%s, n %d, row %d, call %d",
                  kernels[isa]->name, in->n, kind, call);
        }
    }
}

/* --- inputs ----------------------------------------------------------------------------------- */

static float largest(const float *row, int32_t n) {
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) max = row[i] > max ? row[i] : max;
    return max;
}

/* Some touched tokens, ascending, including the first and the last of the row. */
static void fill_touched(inputs *in, uint64_t *random) {
    static int32_t token[MAX_PADDED], generated[MAX_PADDED], window[MAX_PADDED];
    static int32_t in_block[MAX_BLOCKS];
    static float bias[MAX_PADDED], logit[MAX_PADDED];
    int32_t n = 0;
    memset(in_block, 0, sizeof in_block);
    memset(token, 0, sizeof token);
    for (int32_t i = 0; i < in->n; i++) {
        if (i > 0 && i < in->n - 1 && random_below(random, 9) > 0) continue;
        token[n] = i;
        generated[n] = random_below(random, 3);
        window[n] = random_below(random, 2);
        bias[n] = random_below(random, 5) ? 3.0f * random_unit(random) : -INFINITY;
        logit[n++] =
            random_below(random, 3) ? in->max - 4.0f * fabsf(random_unit(random)) : -INFINITY;
        in_block[i / OG_BLOCK]++;
    }
    const size_t padded = (size_t)og_padded(n) * 4, plain = (size_t)n * 4;
    in->touched.n = n;
    in->touched.token = guard_copy(token, padded, in->side);
    in->touched.bias = guard_copy(bias, padded, in->side);
    in->touched.generated = guard_copy(generated, padded, in->side);
    in->touched.window = guard_copy(window, padded, in->side);
    in->patch.token = guard_copy(token, plain, in->side);
    in->patch.logit = guard_copy(logit, plain, in->side);
    in->patch.in_block = guard_copy(in_block, (size_t)og_blocks(in->n) * 4, in->side);
}

/* A padded array of weights, and an upper bound for each block. */
static void fill_weights(inputs *in, const float *row) {
    static float weights[MAX_PADDED], tops[MAX_BLOCKS];
    memset(weights, 0, sizeof weights);
    memset(tops, 0, sizeof tops);
    for (int32_t i = 0; i < in->n; i++) {
        weights[i] = (float)exp2(((double)row[i] - (double)in->max) * (double)in->scale);
        if (weights[i] < FLT_MIN) weights[i] = 0.0f;
        if (weights[i] > tops[i / OG_BLOCK]) tops[i / OG_BLOCK] = weights[i];
    }
    in->weights = guard_copy(weights, (size_t)og_padded(in->n) * sizeof *weights, in->side);
    in->block_top = guard_copy(tops, (size_t)og_blocks(in->n) * sizeof *tops, in->side);
}

static void test_row(enum row_kind kind, enum guard_side side, int32_t n, uint64_t *random) {
    static float row[MAX_N];
    static uint32_t mask[MAX_N / OG_MASK_WORD + 1];
    inputs in = {n, side, NULL, NULL, NULL, NULL, 0.0f, 0.0f, {0}, {0}};
    fill_row(kind, random, row, n);
    fill_mask(random, mask, n, random_below(random, 9), random_below(random, n));
    in.max = largest(row, n);
    in.scale = random_below(random, 4) ? 1.4426950f : 1000.0f;
    in.row = guard_copy(row, (size_t)n * sizeof *row, side);
    in.mask = guard_copy(mask, (size_t)(n + 31) / 32 * sizeof *mask, side);
    fill_weights(&in, row);
    fill_touched(&in, random);
    compare_all(&in, kind);
    guard_give_all();
}

/* NaN and +infinity are detected at each place of a row, even if the mask bans the token. */
static void test_bad_values(const og_kernels *kernels, int32_t n) {
    static float row[MAX_N], block_max[MAX_BLOCKS];
    static uint32_t mask[MAX_N / OG_MASK_WORD + 1];
    for (int32_t at = 0; at < n; at += n > 600 ? 37 : 1) {
        row[at] = NAN;
        CHECK(kernels->scan(row, NULL, n, block_max) == OG_ERR_NAN, "%s, n %d, at %d",
              kernels->name, n, at);
        CHECK(kernels->scan(row, mask, n, block_max) == OG_ERR_NAN, "%s, n %d, at %d",
              kernels->name, n, at);
        row[n - 1 - at] = n - 1 == 2 * at ? NAN : INFINITY;
        CHECK(kernels->scan(row, NULL, n, block_max) == OG_ERR_NAN, "%s, n %d, at %d",
              kernels->name, n, at);
        row[at] = row[n - 1 - at] = INFINITY;
        CHECK(kernels->scan(row, NULL, n, block_max) == OG_ERR_INFINITE, "%s, n %d", kernels->name,
              n);
        CHECK(kernels->scan(row, mask, n, block_max) == OG_ERR_INFINITE, "%s, n %d", kernels->name,
              n);
        row[at] = row[n - 1 - at] = 0.0f;
    }
    CHECK(kernels->scan(row, mask, n, block_max) == OG_OK, "%s, n %d", kernels->name, n);
    for (int32_t b = 0; b < og_blocks(n); b++) CHECK(block_max[b] == -INFINITY, "block %d", b);
}

int main(void) {
    int32_t lengths[MAX_LENGTHS];
    const og_kernels *kernels[MAX_ISAS];
    const int isas = all_kernels(kernels), count = test_lengths(lengths);
    uint64_t random = 1;
    for (int i = 0; i < count; i++) {
        for (enum row_kind kind = 0; kind < ROW_KINDS; kind++) {
            test_row(kind, GUARD_BEHIND, lengths[i], &random);
            test_row(kind, GUARD_BEFORE, lengths[i], &random);
        }
    }
    for (int isa = 0; isa < isas; isa++) {
        for (int32_t n = 1; n < 40; n++) test_bad_values(kernels[isa], n);
        test_bad_values(kernels[isa], OG_BLOCK + 1);
        test_bad_values(kernels[isa], MAX_N);
        printf("%s ", kernels[isa]->name);
    }
    return check_result("kernels");
}
