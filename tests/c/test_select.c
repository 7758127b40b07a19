/* og_select against sorting. */
#include "og_select.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "rig.h"
#include "rows.h"

enum { MAX_N = 70000 };

static int descending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static const float *sorted_copy(const float *values, int32_t n) {
    static float sorted[MAX_N];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, descending);
    return sorted;
}

static int32_t count_equal(const float *values, int32_t n, float value) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += values[i] == value;
    return count;
}

static int32_t count_above(const float *values, int32_t n, float value) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += values[i] > value;
    return count;
}

static void test_count(const float *values, const float *sorted, int32_t n, int32_t k) {
    const og_cut cut = og_select_count(values, n, k);
    const int32_t above = count_above(values, n, sorted[k - 1]);
    CHECK(cut.border == sorted[k - 1], "n %d, k %d: %a", n, k, (double)cut.border);
    CHECK(cut.ties == k - above, "n %d, k %d: %d ties, not %d", n, k, cut.ties, k - above);
    CHECK(cut.more == (count_equal(values, n, cut.border) > cut.ties), "n %d, k %d: more", n, k);
}

/* Whether a cut keeps the smallest set whose sum reaches the target, within the rounding of the
 * sums. */
static void check_mass(const char *what, const float *values, int32_t n, og_cut cut, double target,
                       double total) {
    double above = 0.0;
    for (int32_t i = 0; i < n; i++) above += values[i] > cut.border ? (double)values[i] : 0.0;
    const double least = above + (double)(cut.ties - 1) * (double)cut.border;
    const double all = above + (double)cut.ties * (double)cut.border;
    const double slack = 4e-6 * total;
    const int32_t equal = count_equal(values, n, cut.border);
    CHECK(cut.ties >= 1 && cut.ties <= equal, "%s: n %d, %d ties of %d", what, n, cut.ties, equal);
    CHECK(cut.more == (equal > cut.ties), "%s: n %d, more", what, n);
    CHECK(least < target + slack, "%s: n %d, too many: %.9g for %.9g", what, n, least, target);
    CHECK(all >= target - slack || cut.ties + count_above(values, n, cut.border) == n,
          "%s: n %d, too few: %.9g for %.9g", what, n, all, target);
}

static void check_listed(const float *weights, int32_t n, og_nucleus nucleus,
                         const og_lists *lists) {
    const int32_t wanted = count_above(weights, n, nucleus.cut.border) + nucleus.cut.ties;
    int32_t found = 0;
    for (int32_t i = 0; i < nucleus.listed; i++) {
        const int32_t at = lists->places[0][i];
        CHECK(i == 0 || at > lists->places[0][i - 1], "n %d: places do not ascend", n);
        if (at < n) CHECK(lists->values[0][i] == weights[at], "n %d: not the value of %d", n, at);
        found += lists->values[0][i] >= nucleus.cut.border && at < n;
    }
    CHECK(found >= wanted, "n %d: %d of %d are listed", n, found, wanted);
}

static void test_nucleus(const og_kernels *kernels, og_scratch *scratch, int32_t n, bool tops) {
    static const double shares[] = {1e-9, 0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.999999};
    const float *block_top = tops ? scratch->block_top : NULL;
    const double total = kernels->sum(scratch->weights, n, 0.0f, NULL, scratch->block_sum);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        const double goal = shares[i] * total;
        const og_nucleus nucleus = og_select_nucleus(kernels, scratch->weights, n, block_top, total,
                                                     goal, &scratch->lists);
        check_mass("nucleus", scratch->weights, n, nucleus.cut, goal, total);
        if (nucleus.listed >= 0) check_listed(scratch->weights, n, nucleus, &scratch->lists);
        check_mass("radix", scratch->weights, n,
                   og_select_mass(scratch->weights, scratch->weights, n, goal), goal, total);
    }
}

static void test_largest(const og_kernels *kernels, og_scratch *scratch, const float *row,
                         const float *sorted, int32_t n, int32_t k) {
    const int32_t listed =
        og_select_largest(kernels, row, n, scratch->block_max, k, &scratch->lists);
    if (listed >= 0) {
        const float *values = scratch->lists.values[0];
        CHECK(listed >= k, "n %d, k %d: %d listed", n, k, listed);
        for (int32_t i = 0; i < listed; i++) {
            const int32_t at = scratch->lists.places[0][i];
            CHECK(at < n && row[at] == values[i], "n %d, k %d: place %d", n, k, at);
            CHECK(i == 0 || at > scratch->lists.places[0][i - 1], "n %d, k %d: order", n, k);
        }
        CHECK(count_above(values, listed, sorted[k - 1]) == count_above(row, n, sorted[k - 1]) &&
                  count_equal(values, listed, sorted[k - 1]) == count_equal(row, n, sorted[k - 1]),
              "n %d, k %d: some are missing", n, k);
    }
    if (k > OG_SAMPLE) return;
    float best[OG_SAMPLE];
    const int32_t size =
        og_select_top(kernels, row, n, scratch->block_max, k, &scratch->lists, best);
    CHECK(size == k, "n %d: %d of %d", n, size, k);
    for (int32_t i = 0; i < size; i++) CHECK(best[i] == sorted[i], "n %d, k %d: best %d", n, k, i);
}

/* --- a list that is narrowed twice ------------------------------------------------------------ */

enum { MAX_CALLS = 8 };

/* The number of places that each bracket of one selection listed, and the places. */
static struct {
    const og_kernels *kernels;
    int32_t calls;
    int32_t n[MAX_CALLS];
    int32_t places[MAX_CALLS][MAX_N];
} seen;

static double recorded_bracket(const float *weights, int32_t n, float low, float high,
                               const float *block_top, float *values, int32_t *places,
                               int32_t capacity, int32_t *count) {
    const double above =
        seen.kernels->bracket(weights, n, low, high, block_top, values, places, capacity, count);
    if (seen.calls < MAX_CALLS && *count <= capacity) {
        memcpy(seen.places[seen.calls], places, (size_t)*count * sizeof *places);
        seen.n[seen.calls++] = *count;
    }
    return above;
}

/* The probed places of a list by og_select.c's rule. (With another rule the row is harmless.) */
static void mark_probes(bool *probed, int32_t n) {
    const int32_t wanted = n / 16 < OG_SAMPLE ? n / 16 : OG_SAMPLE,
                  size = wanted < 64 ? 64 : wanted;
    const uint64_t stretch = ((uint64_t)n << 32) / (uint64_t)size;
    memset(probed, 0, (size_t)n * sizeof *probed);
    for (int32_t i = 0; i < size; i++) {
        const uint32_t jitter = (uint32_t)(i + 1) * 2654435769u;
        probed[((uint64_t)i * stretch + (jitter >> 16) * (stretch >> 16)) >> 32] = true;
    }
}

/* The place in the row of a weight in the list that was probed last. */
static int32_t row_place(int32_t at) {
    for (int32_t list = seen.calls - 2; list >= 0; list--) at = seen.places[list][at];
    return at;
}

/* Move the lowest (or highest) weights of the list that was probed last to the probed places. This
 * misleads the selection, so that it must probe again. */
static void mislead(float *weights, bool highest) {
    static bool probed[MAX_N];
    static float values[MAX_N];
    if (seen.calls < 2) return;
    const int32_t left = seen.n[seen.calls - 2];
    for (int32_t i = 0; i < left; i++) values[i] = weights[row_place(i)];
    qsort(values, (size_t)left, sizeof *values, descending);
    mark_probes(probed, left);
    int32_t next = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (int32_t i = 0; i < left; i++) {
            if (probed[i] == ((turn == 0) == highest)) weights[row_place(i)] = values[next++];
        }
    }
}

static void test_misled(uint64_t *random, int32_t n, double share, bool highest) {
    const og_kernels *kernels = og_kernels_best();
    og_kernels recording = *kernels;
    recording.bracket = recorded_bracket;
    seen.kernels = kernels;
    void *memory = rig_heap.take(og_scratch_bytes(n, false));
    og_scratch scratch;
    og_scratch_init(&scratch, memory, n, false);
    float *weights = scratch.weights;
    memset(weights, 0, (size_t)og_padded(n) * sizeof *weights);
    for (int32_t i = 0; i < n; i++) weights[i] = 0.5f + 0.3f * random_unit(random);
    for (int turn = 0; turn < 2; turn++) {
        const double total = kernels->sum(weights, n, 0.0f, NULL, scratch.block_sum);
        seen.calls = 0;
        const og_nucleus nucleus =
            og_select_nucleus(&recording, weights, n, NULL, total, share * total, &scratch.lists);
        check_mass("misled", weights, n, nucleus.cut, share * total, total);
        if (turn == 0) mislead(weights, highest);
    }
    rig_heap.give(memory);
}

/* --- all -------------------------------------------------------------------------------------- */

/* Rows of weights with a border that is hard to find: power laws, steps, one giant. */
static void fill_hard(int shape, uint64_t *random, float *row, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        const double u = (double)(random_bits(random) >> 11) * 0x1p-53 + 1e-12;
        switch (shape) {
        case 0: row[i] = (float)(-0.9 * log(u)); break;
        case 1: row[i] = (float)(-2.0 * log(u)); break;
        case 2: row[i] = i % 997 == 0 ? 9.0f : (float)u; break;
        case 3: row[i] = i == n / 2 ? 30.0f : (float)(10.0 * u); break;
        case 4: row[i] = (float)(i / 700 % 12); break; /* whole blocks are alike */
        default: row[i] = (float)(3.0 * sqrt(-2.0 * log(u))); break;
        }
    }
}

static void test_row(const float *row, int32_t n) {
    const size_t bytes = og_scratch_bytes(n, false);
    void *memory = rig_heap.take(bytes);
    const og_kernels *kernels = og_kernels_best();
    og_scratch scratch;
    og_scratch_init(&scratch, memory, n, false);
    CHECK(kernels->scan(row, NULL, n, scratch.block_max) == OG_OK, "n %d: scan", n);
    const float *sorted = sorted_copy(row, n);
    const int32_t ks[] = {1, 2, 5, 40, 100, n / 3, n - 1, n};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        if (ks[i] < 1 || ks[i] > n) continue;
        test_count(row, sorted, n, ks[i]);
        test_largest(kernels, &scratch, row, sorted, n, ks[i]);
    }
    kernels->weigh(scratch.block_max, NULL, og_blocks(n), sorted[0], 1.4426950f, NULL,
                   scratch.block_top, scratch.lists.sums);
    kernels->weigh(row, NULL, n, sorted[0], 1.4426950f, NULL, scratch.weights, scratch.block_sum);
    test_nucleus(kernels, &scratch, n, false);
    test_nucleus(kernels, &scratch, n, true);
    rig_heap.give(memory);
}

int main(void) {
    static float row[MAX_N];
    static const int32_t large[] = {5000, 16384, 33001, MAX_N};
    int32_t lengths[MAX_LENGTHS];
    const int count = test_lengths(lengths);
    uint64_t random = 3;
    for (int i = 0; i < count; i++) {
        for (enum row_kind kind = 0; kind < ROW_KINDS; kind++) {
            fill_row(kind, &random, row, lengths[i]);
            test_row(row, lengths[i]);
        }
    }
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        for (int shape = 0; shape < 18; shape++) {
            fill_hard(shape % 6, &random, row, large[i]);
            test_row(row, large[i]);
        }
    }
    for (int trial = 0; trial < 60; trial++) {
        const int32_t n = MAX_N - 1 - random_below(&random, 20000);
        test_misled(&random, n, 0.1 + 0.013 * trial, trial % 2);
    }
    return check_result("select");
}
