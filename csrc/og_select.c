#include "og_select.h"

#include <math.h>
#include <string.h>

#include "og_math.h"

/* --- radix selection -------------------------------------------------------------------------- */

enum { DIGITS = 3, MAX_BUCKETS = 1 << 11 };
static const int DIGIT_SHIFT[DIGITS] = {21, 10, 0};
static const int DIGIT_BITS[DIGITS] = {11, 11, 10};

/* One bucket of the histogram: the number of its values, and their total mass. */
typedef struct bucket {
    double mass;
    int64_t count;
} bucket;

/* Count keys by digit number `digit`, if their higher digits equal those of `prefix`. */
static void histogram(const float *keys, const float *masses, int32_t n, int digit, uint32_t prefix,
                      bucket *buckets) {
    const int shift = DIGIT_SHIFT[digit];
    const int above = shift + DIGIT_BITS[digit];
    const uint32_t mask = (1u << DIGIT_BITS[digit]) - 1;
    for (uint32_t b = 0; b <= mask; b++) {
        buckets[b].mass = 0.0;
        buckets[b].count = 0;
    }
    for (int32_t i = 0; i < n; i++) {
        const uint32_t bits = og_order_bits(keys[i]);
        if (digit == 0 || bits >> above == prefix >> above) {
            bucket *b = &buckets[bits >> shift & mask];
            b->mass += (double)masses[i];
            b->count++;
        }
    }
}

/* What the search must still collect: a number of values, or a mass. */
typedef struct wish {
    bool by_mass;
    double mass;
    int64_t count;
} wish;

static bool reaches(const wish *g, const bucket *b) {
    return g->by_mass ? b->mass >= g->mass : b->count >= g->count;
}

static void subtract(wish *g, const bucket *b) {
    g->mass -= b->mass;
    g->count -= b->count;
}

/* Return the first bucket, from the highest down, in which the goal is reached, and subtract the
 * buckets above it from the goal. If rounding lets none reach it, return the last non-empty one. */
static uint32_t border_bucket(const bucket *buckets, int digit, wish *g) {
    uint32_t last = 0;
    wish before = *g;
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

/* How many of the equal keys at the border the goal still needs, lowest index first; at least 1.
 * Equal keys may have different masses (two tokens equally far from the entropy, on either side of
 * it). */
static int32_t ties_wanted(const float *keys, const float *masses, int32_t n, float border,
                           const wish *g) {
    if (!g->by_mass) return (int32_t)g->count;
    double mass = 0.0;
    int32_t ties = 0;
    for (int32_t i = 0; i < n && (ties == 0 || mass < g->mass); i++) {
        if (keys[i] != border) continue;
        mass += (double)masses[i];
        ties++;
    }
    return ties;
}

static og_cut select_border(const float *keys, const float *masses, int32_t n, wish g) {
    bucket buckets[MAX_BUCKETS];
    og_cut cut = {0.0f, 1, false};
    uint32_t border = 0;
    int64_t equal = 0; /* how many keys equal the border */
    for (int digit = 0; digit < DIGITS; digit++) {
        histogram(keys, masses, n, digit, border, buckets);
        const uint32_t b = border_bucket(buckets, digit, &g);
        border |= b << DIGIT_SHIFT[digit];
        equal = buckets[b].count;
    }
    cut.border = og_from_order_bits(border);
    cut.ties = ties_wanted(keys, masses, n, cut.border, &g);
    cut.more = cut.ties < equal;
    return cut;
}

og_cut og_select_count(const float *values, int32_t n, int32_t k) {
    const wish g = {false, 0.0, k};
    return select_border(values, values, n, g);
}

og_cut og_select_mass(const float *keys, const float *masses, int32_t n, double target) {
    const wish g = {true, target, 0};
    return select_border(keys, masses, n, g);
}

/* --- selection guided by a sample ------------------------------------------------------------- */

enum { BUCKETS = 256, SMALL = 16, PROBES = 64, FEW = 2048 };

/* Weights are >= 0, so their bits have the same order as integers. */
static uint32_t bits_of(float weight) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

static float weight_of(uint32_t bits) {
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

/* The shift that distributes bits from base to top over the buckets. */
static int bucket_shift(uint32_t base, uint32_t top) {
    int shift = 0;
    while ((top - base) >> shift >= BUCKETS) shift++;
    return shift;
}

/* The place of probe i: one in each of `size` equal stretches of n. The place within a stretch
 * changes by a fixed rule that fills it evenly (multiples of the golden ratio), so that a periodic
 * row does not bias the sample. stretch: n * 2^32 / size. */
static int32_t probe_place(int32_t i, uint64_t stretch) {
    const uint32_t jitter = (uint32_t)(i + 1) * 2654435769u;
    return (int32_t)(((uint64_t)i * stretch + (jitter >> 16) * (stretch >> 16)) >> 32);
}

static void take_sample(const float *values, int32_t n, float *sample, int32_t size) {
    const uint64_t stretch = ((uint64_t)n << 32) / (uint64_t)size;
    for (int32_t i = 0; i < size; i++) sample[i] = values[probe_place(i, stretch)];
}

/* Weights below tail / n cannot be in the nucleus (the crop of llama2.c). */
static float least_kept(double tail, int32_t n) { return (float)(tail / n * (1.0 - 1e-6)); }

typedef struct interval {
    float low, high; /* low <= v < high */
} interval;

/* Estimate the interval of the border, below which the mass is `tail`. Each sampled value stands
 * for n / size values of the row. `margin` is the error allowed for the sampled mass below a value,
 * in standard deviations. */
static interval guess(const float *values, int32_t n, double tail, double margin, float *sample,
                      int32_t size) {
    const double each = (double)n / size;
    const uint32_t base = bits_of(least_kept(tail, n));
    double mass[BUCKETS] = {0}, squares[BUCKETS] = {0};
    double below = 0.0, square = 0.0;
    uint32_t top = base;
    take_sample(values, n, sample, size);
    for (int32_t i = 0; i < size; i++) top = bits_of(sample[i]) > top ? bits_of(sample[i]) : top;
    const int shift = bucket_shift(base, top);
    for (int32_t i = 0; i < size; i++) {
        const uint32_t bits = bits_of(sample[i]);
        const double v = (double)sample[i] * each;
        if (bits < base) {
            below += v;
            square += v * v;
        } else {
            mass[(bits - base) >> shift] += v;
            squares[(bits - base) >> shift] += v * v;
        }
    }
    interval found = {weight_of(base), INFINITY};
    for (uint32_t b = 0; b <= (top - base) >> shift; b++) {
        /* Here `below` is the estimated mass below this bucket. */
        const double over = below - tail, spread = margin * margin * square;
        if (over < 0.0 && over * over > spread) found.low = weight_of(base + (b << shift));
        if (over > 0.0 && over * over > spread) {
            found.high = weight_of(base + (b << shift));
            break;
        }
        below += mass[b];
        square += squares[b];
    }
    return found;
}

/* A larger sample costs more and leaves a shorter list. */
static int32_t sample_size(int32_t n) {
    const int32_t size = n / 16 < OG_SAMPLE ? n / 16 : OG_SAMPLE;
    return size < PROBES ? PROBES : size;
}

static void sort_descending(float *values, int32_t n) {
    for (int32_t i = 1; i < n; i++) {
        const float value = values[i];
        int32_t at = i;
        for (; at > 0 && values[at - 1] < value; at--) values[at] = values[at - 1];
        values[at] = value;
    }
}

/* The cut among few values; the n values are sorted, best first. */
static og_cut cut_sorted(const float *values, int32_t n, double wanted) {
    double mass = (double)values[0];
    int32_t at = 0;
    while (at + 1 < n && mass < wanted) mass += (double)values[++at];
    og_cut cut = {values[at], 1, at + 1 < n && values[at + 1] == values[at]};
    for (int32_t i = at - 1; i >= 0 && values[i] == values[at]; i--) cut.ties++;
    return cut;
}

/* The cut among equal values. */
static og_cut cut_equal(float value, int32_t n, double wanted) {
    const double each = (double)value;
    const double ratio = each > 0.0 ? wanted / each : 1.0;
    int32_t ties = ratio < (double)n ? (int32_t)ratio : n;
    if (ties < n && (double)ties * each < wanted) ties++;
    const og_cut cut = {value, ties > 0 ? ties : 1, ties < n};
    return cut;
}

/* The exact cut among n > 0 values, which are overwritten: distribute them over buckets, and
 * continue with the bucket that contains the border. O(n); each round divides the range by 256. */
static og_cut cut_by_buckets(float *values, int32_t n, double wanted) {
    while (n > SMALL) {
        uint32_t base = bits_of(values[0]), top = base;
        for (int32_t i = 1; i < n; i++) {
            const uint32_t bits = bits_of(values[i]);
            base = bits < base ? bits : base;
            top = bits > top ? bits : top;
        }
        if (base == top) return cut_equal(values[0], n, wanted);
        const int shift = bucket_shift(base, top);
        bucket buckets[BUCKETS] = {{0.0, 0}};
        for (int32_t i = 0; i < n; i++) {
            bucket *b = &buckets[(bits_of(values[i]) - base) >> shift];
            b->mass += (double)values[i];
            b->count++;
        }
        uint32_t chosen = 0;
        double left = wanted;
        for (uint32_t b = BUCKETS; b-- > 0;) {
            if (buckets[b].count == 0) continue;
            chosen = b;
            wanted = left;
            if (buckets[b].mass >= left) break;
            left -= buckets[b].mass;
        }
        int32_t count = 0;
        for (int32_t i = 0; i < n; i++) {
            if ((bits_of(values[i]) - base) >> shift == chosen) values[count++] = values[i];
        }
        n = count;
    }
    sort_descending(values, n);
    return cut_sorted(values, n, wanted);
}

/* The result of one pass. */
typedef struct narrowed {
    double above;  /* mass of the values above the list */
    double inside; /* mass of the list */
    int32_t count; /* its length, -1 if the border was not found */
} narrowed;

/* Whether the values above tail / n are so few that they can simply be listed. */
static bool is_peaked(const float *values, int32_t n, double tail, int32_t capacity) {
    const float certain = least_kept(tail, n);
    float sample[PROBES];
    int32_t more = 0;
    take_sample(values, n, sample, PROBES);
    for (int32_t i = 0; i < PROBES; i++) more += sample[i] >= certain;
    return (double)more * n <= 0.25 * PROBES * capacity;
}

/* List the values that contain the border. */
static narrowed narrow(const og_kernels *kernels, const float *values, int32_t n,
                       const float *block_top, double total, double wanted, int which,
                       og_lists *lists) {
    narrowed result = {0.0, 0.0, -1};
    float *list = lists->values[which];
    const double tail = total - wanted;
    const int32_t size = sample_size(n);
    interval between = {least_kept(tail, n), INFINITY};
    /* Fails once in a hundred rows; a wider interval would cost more in the other ninety-nine. */
    double margin = 2.5;
    if (block_top == NULL || !is_peaked(values, n, tail, lists->capacity)) {
        between = guess(values, n, tail, margin, lists->sample, size);
    }
    for (int tries = 0; tries < 3; tries++) {
        int32_t count = 0;
        const double above = kernels->bracket(values, n, between.low, between.high, block_top, list,
                                              lists->places[which > 0], lists->capacity, &count);
        if (count > lists->capacity) { /* too wide: try a narrower interval */
            margin /= 2.0;
            between = guess(values, n, tail, margin, lists->sample, size);
            continue;
        }
        margin *= 3.0;
        if (above >= wanted) { /* higher up */
            const interval wider = guess(values, n, tail, margin, lists->sample, size);
            between.low = between.high;
            between.high = wider.high > between.low ? wider.high : INFINITY;
            continue;
        }
        for (int32_t i = count; i < og_padded(count); i++) list[i] = 0.0f;
        const double inside = kernels->sum(list, count, 0.0f, NULL, lists->sums);
        if (above + inside < wanted) { /* lower down */
            const interval wider = guess(values, n, tail, margin, lists->sample, size);
            if (between.low <= least_kept(tail, n)) return result;
            between.high = between.low;
            between.low = wider.low < between.high ? wider.low : least_kept(tail, n);
            continue;
        }
        result.above = above;
        result.inside = inside;
        result.count = count;
        return result;
    }
    return result;
}

og_nucleus og_select_nucleus(const og_kernels *kernels, const float *weights, int32_t n,
                             const float *block_top, double total, double goal, og_lists *lists) {
    const narrowed first = narrow(kernels, weights, n, block_top, total, goal, 0, lists);
    if (first.count < 0) {
        const og_nucleus nucleus = {og_select_mass(weights, weights, n, goal), -1};
        return nucleus;
    }
    const float *values = lists->values[0];
    int32_t left = first.count;
    double wanted = goal - first.above;
    total = first.inside;
    for (int which = 1; left > FEW; which = 3 - which) {
        const narrowed next = narrow(kernels, values, left, NULL, total, wanted, which, lists);
        if (next.count < 0 || next.count > left / 2) break; /* leave the rest to the buckets */
        wanted -= next.above;
        total = next.inside;
        values = lists->values[which];
        left = next.count;
    }
    float *rest = lists->values[values == lists->values[1] ? 2 : 1];
    memcpy(rest, values, (size_t)left * sizeof *rest);
    const og_nucleus nucleus = {cut_by_buckets(rest, left, wanted),
                                first.above == 0.0 ? first.count : -1};
    return nucleus;
}

/* --- the largest values ----------------------------------------------------------------------- */

/* The k-th largest of the block maxima: at least k values are not below it. k <= OG_SAMPLE. */
static float kth_maximum(const float *block_max, int32_t blocks, int32_t k, float *sample) {
    /* The k largest so far, ascending: most maxima fail the first comparison. */
    for (int32_t i = 0; i < k; i++) sample[i] = -INFINITY;
    for (int32_t b = 0; b < blocks; b++) {
        if (!(block_max[b] > sample[0])) continue;
        int32_t at = 0;
        for (; at + 1 < k && sample[at + 1] < block_max[b]; at++) sample[at] = sample[at + 1];
        sample[at] = block_max[b];
    }
    return sample[0];
}

/* A value that at least k values of the row are expected to reach. */
static float sampled_border(const float *row, int32_t n, int32_t k, float *sample) {
    const int32_t size = OG_SAMPLE < n ? OG_SAMPLE : n;
    take_sample(row, n, sample, size);
    const double rank = (double)k * size / n;
    /* Three standard deviations of a rank, squared to avoid a square root: 9 (rank + 1). */
    int32_t margin = 1;
    while ((double)margin * margin < 9.0 * (rank + 1.0)) margin++;
    const int32_t from_top = (int32_t)rank + margin;
    return from_top < size ? og_select_count(sample, size, from_top + 1).border : -INFINITY;
}

int32_t og_select_largest(const og_kernels *kernels, const float *row, int32_t n,
                          const float *block_max, int32_t k, og_lists *lists) {
    const int32_t blocks = og_blocks(n);
    const bool by_maxima = k <= blocks / 2 && k <= OG_SAMPLE;
    const float border = by_maxima ? kth_maximum(block_max, blocks, k, lists->sample)
                                   : sampled_border(row, n, k, lists->sample);
    float *values = lists->values[0];
    int32_t *places = lists->places[0];
    int32_t found = 0;
    for (int32_t b = 0; b < blocks; b++) {
        if (block_max[b] < border) continue;
        const int32_t start = b * OG_BLOCK;
        int32_t length = n - start < OG_BLOCK ? n - start : OG_BLOCK;
        const int32_t whole = length / OG_LANES * OG_LANES;
        int32_t count = 0;
        const int32_t room = lists->capacity - found;
        kernels->bracket(row + start, whole, border, INFINITY, NULL, values + found, places + found,
                         room, &count);
        if (count > room) return -1;
        for (int32_t i = 0; i < count; i++) places[found + i] += start;
        found += count;
        for (int32_t i = start + whole; i < start + length; i++) {
            if (row[i] < border) continue;
            if (found == lists->capacity) return -1;
            values[found] = row[i];
            places[found++] = i;
        }
    }
    return found >= k ? found : -1;
}

int32_t og_select_top(const og_kernels *kernels, const float *row, int32_t n,
                      const float *block_max, int32_t k, og_lists *lists, float *best) {
    const int32_t listed = og_select_largest(kernels, row, n, block_max, k, lists);
    const float *values = listed < 0 ? row : lists->values[0];
    const int32_t count = listed < 0 ? n : listed;
    int32_t size = 0;
    for (int32_t i = 0; i < count; i++) {
        if (size == k && !(values[i] > best[k - 1])) continue;
        int32_t at = size < k ? size++ : k - 1;
        for (; at > 0 && values[i] > best[at - 1]; at--) best[at] = best[at - 1];
        best[at] = values[i];
    }
    return size;
}
