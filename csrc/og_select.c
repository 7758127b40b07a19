#include "og_select.h"

#include <stdbool.h>

#include "og_math.h"

enum { DIGITS = 3, MAX_BUCKETS = 1 << 11 };
static const int DIGIT_SHIFT[DIGITS] = {21, 10, 0};
static const int DIGIT_BITS[DIGITS] = {11, 11, 10};

/* One bucket of the histogram: how many values, and what they weigh together. */
typedef struct bucket {
    double mass;
    int64_t count;
} bucket;

/* Count values whose higher digits equal those of `prefix` by their digit number `digit`. */
static void histogram(const float *values, int32_t n, int digit, uint32_t prefix, bucket *buckets) {
    const int shift = DIGIT_SHIFT[digit];
    const int above = shift + DIGIT_BITS[digit];
    const uint32_t mask = (1u << DIGIT_BITS[digit]) - 1;
    for (uint32_t b = 0; b <= mask; b++) {
        buckets[b].mass = 0.0;
        buckets[b].count = 0;
    }
    for (int32_t i = 0; i < n; i++) {
        const uint32_t bits = og_order_bits(values[i]);
        if (digit == 0 || bits >> above == prefix >> above) {
            bucket *b = &buckets[bits >> shift & mask];
            b->mass += (double)values[i];
            b->count++;
        }
    }
}

/* What the search still has to collect: a number of values, or a mass. */
typedef struct goal {
    bool by_mass;
    double mass;
    int64_t count;
} goal;

static bool reaches(const goal *g, const bucket *b) {
    return g->by_mass ? b->mass >= g->mass : b->count >= g->count;
}

static void subtract(goal *g, const bucket *b) {
    g->mass -= b->mass;
    g->count -= b->count;
}

/* From the highest bucket down, the first in which the goal is reached; the ones above it are
 * taken off the goal. When rounding lets none reach it, the lowest that is not empty. */
static uint32_t border_bucket(const bucket *buckets, int digit, goal *g) {
    uint32_t last = 0;
    goal before = *g;
    for (uint32_t b = 1u << DIGIT_BITS[digit]; b-- > 0;) {
        if (buckets[b].count == 0) continue;
        last = b;
        before = *g;
        if (reaches(g, &buckets[b])) return b;
        subtract(g, &buckets[b]);
    }
    *g = before;
    return last;
}

/* How many of a bucket's equal values the goal still wants; at least 1, at most all. */
static int32_t ties_wanted(const goal *g, const bucket *b) {
    int64_t wanted = g->count;
    if (g->by_mass) {
        const double each = b->mass / (double)b->count;
        const double ratio = each > 0.0 ? g->mass / each : 1.0;
        wanted = ratio < (double)b->count ? (int64_t)ratio : b->count;
        if ((double)wanted * each < g->mass) wanted++;
    }
    if (wanted > b->count) wanted = b->count;
    return wanted < 1 ? 1 : (int32_t)wanted;
}

static og_cut select_border(const float *values, int32_t n, goal g) {
    bucket buckets[MAX_BUCKETS];
    og_cut cut = {0, 1};
    for (int digit = 0; digit < DIGITS; digit++) {
        histogram(values, n, digit, cut.threshold, buckets);
        const uint32_t b = border_bucket(buckets, digit, &g);
        cut.threshold |= b << DIGIT_SHIFT[digit];
        /* After the last digit all values of a bucket are equal. */
        if (digit == DIGITS - 1) cut.n_ties = ties_wanted(&g, &buckets[b]);
    }
    return cut;
}

og_cut og_select_count(const float *values, int32_t n, int32_t k) {
    const goal g = {false, 0.0, k};
    return select_border(values, n, g);
}

og_cut og_select_mass(const float *weights, int32_t n, double target) {
    const goal g = {true, target, 0};
    return select_border(weights, n, g);
}

void og_cut_apply(og_cut cut, float *values, int32_t n, float dropped) {
    int32_t ties = cut.n_ties;
    for (int32_t i = 0; i < n; i++) {
        const uint32_t bits = og_order_bits(values[i]);
        if (bits > cut.threshold) continue;
        if (bits == cut.threshold && ties > 0) {
            ties--;
            continue;
        }
        values[i] = dropped;
    }
}
