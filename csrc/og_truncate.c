#include "og_truncate.h"

#include <float.h>
#include <math.h>

#include "og_math.h"

static void fill_pad(float *weights, int32_t n) {
    for (int32_t i = n; i < og_padded(n); i++) weights[i] = 0.0f;
}

/* Whether a cut keeps a value; *ties is how many more values equal to the border it keeps. */
static bool passes(float value, og_cut cut, int32_t *ties) {
    if (value != cut.border) return value > cut.border;
    return (*ties)-- > 0;
}

/* Return a cut that keeps at least min_keep values: the lower of two cuts. */
static og_cut keep_some(og_cut cut, const float *values, int32_t n, int32_t min_keep) {
    if (min_keep <= 1) return cut;
    int32_t above = 0, equal = 0;
    for (int32_t i = 0; i < n; i++) {
        above += values[i] > cut.border;
        equal += values[i] == cut.border;
    }
    const int32_t kept = above + (cut.ties < equal ? cut.ties : equal);
    if (kept >= min_keep) return cut; /* nearly always; selecting takes far longer */
    const og_cut least = og_select_count(values, n, min_keep < n ? min_keep : n);
    if (least.border > cut.border) return cut;
    if (least.border == cut.border && least.ties <= cut.ties) return cut;
    return least;
}

/* Drop everything below a cut, and the ties that it does not keep. */
static void apply_cut(og_dist *d, og_cut cut) {
    int32_t ties = cut.ties;
    for (int32_t i = 0; cut.more && i < d->n; i++) {
        if (d->weights[i] == cut.border && !passes(cut.border, cut, &ties)) d->weights[i] = 0.0f;
    }
    if (cut.border > d->low) d->low = cut.border;
    d->summed = false;
}

void og_row_top_n_sigma(const og_params *p, float max, float *row, int32_t n) {
    /* Fixed lanes, so that every compiler adds in the same order. */
    double sums[OG_LANES] = {0}, squares[OG_LANES] = {0};
    int32_t counts[OG_LANES] = {0};
    for (int32_t i = 0; i < n; i++) {
        if (row[i] == -INFINITY) continue;
        /* Use distances from the maximum, because squares of large logits would cancel. */
        const double below = (double)row[i] - (double)max;
        sums[i % OG_LANES] += below;
        squares[i % OG_LANES] += below * below;
        counts[i % OG_LANES]++;
    }
    double total = 0.0, square = 0.0, count = 0.0;
    for (int lane = 0; lane < OG_LANES; lane++) {
        total += sums[lane];
        square += squares[lane];
        count += counts[lane];
    }
    const double mean = total / count, variance = square / count - mean * mean;
    const double border = -(double)p->top_n_sigma * sqrt(variance > 0.0 ? variance : 0.0);
    /* The cut for min_keep: empty if one token is enough, because the largest always stays. */
    og_cut least = {INFINITY, 0, false};
    if (p->min_keep > 1) least = og_select_count(row, n, p->min_keep < n ? p->min_keep : n);
    int32_t ties = least.ties;
    for (int32_t i = 0; i < n; i++) {
        const bool wanted = passes(row[i], least, &ties);
        if (!wanted && (double)row[i] - (double)max < border) row[i] = -INFINITY;
    }
}

/* Keep the k largest logits of a row. If the list is short enough, they go to ids and the beginning
 * of the row (returns their number); else the row's other logits become -infinity (returns -1). */
static int32_t top_k(const og_kernels *kernels, int32_t k, float *row, int32_t n,
                     og_scratch *scratch) {
    const int32_t listed =
        og_select_largest(kernels, row, n, scratch->block_max, k, &scratch->lists);
    const float *values = listed < 0 ? row : scratch->lists.values[0];
    const int32_t count = listed < 0 ? n : listed;
    const og_cut cut = og_select_count(values, count, k);
    int32_t ties = cut.ties, kept = 0;
    if (listed < 0) {
        for (int32_t i = 0; i < n; i++) {
            if (!passes(row[i], cut, &ties)) row[i] = -INFINITY;
        }
        return -1;
    }
    for (int32_t i = 0; i < listed; i++) {
        if (!passes(values[i], cut, &ties)) continue;
        scratch->ids[kept] = scratch->lists.places[0][i];
        row[kept++] = values[i];
    }
    return kept;
}

og_dist og_dist_weigh_copy(const og_kernels *kernels, float *row, int32_t n, int32_t k, float max,
                           float scale, og_scratch *scratch) {
    const int32_t listed = k > 0 && k < n ? top_k(kernels, k, row, n, scratch) : -1;
    const og_view v = {row, NULL, NULL, listed < 0 ? n : listed};
    og_dist d = og_dist_weigh(kernels, &v, max, scale, scratch);
    d.logits = row;
    if (listed < 0) return d;
    d.ids = scratch->ids;
    d.block_top = NULL;
    return d;
}

static void typical(const og_sampler *s, og_dist *d, float max, float scale) {
    const double log_total = og_log2(d->total);
    const double entropy = og_entropy_bits(s->kernels, d->logits, d->n, max, scale);
    /* The logits are no longer needed: overwrite them with the keys. */
    float *keys = d->logits;
    for (int32_t i = 0; i < d->n; i++) {
        const double information = log_total - ((double)keys[i] - (double)max) * (double)scale;
        const double distance = information - entropy;
        keys[i] = d->weights[i] > 0.0f ? (float)(distance < 0.0 ? distance : -distance) : -INFINITY;
    }
    /* "Exceeds": use the next larger goal. A set of mass 0 is never enough. */
    const double goal = nextafter((double)s->params.typical_p * d->total, INFINITY);
    og_cut cut = og_select_mass(keys, d->weights, d->n, goal);
    cut = keep_some(cut, keys, d->n, s->params.min_keep);
    int32_t ties = cut.ties;
    d->top = 0.0f;
    for (int32_t i = 0; i < d->n; i++) {
        if (!passes(keys[i], cut, &ties)) d->weights[i] = 0.0f;
        if (d->weights[i] > d->top) d->top = d->weights[i];
    }
    d->summed = false;
}

/* Replace the candidates by those of the first list that a cut keeps. */
static void take_list(og_dist *d, og_cut cut, int32_t listed, og_scratch *scratch) {
    const float *values = scratch->lists.values[0];
    const int32_t *places = scratch->lists.places[0];
    int32_t ties = cut.ties, kept = 0;
    for (int32_t i = 0; i < listed; i++) {
        if (!passes(values[i], cut, &ties)) continue;
        /* Places ascend, so nothing is overwritten before it is read. */
        scratch->ids[kept] = d->ids != NULL ? d->ids[places[i]] : places[i];
        d->weights[kept++] = values[i];
    }
    fill_pad(d->weights, kept);
    d->ids = scratch->ids;
    d->block_top = NULL;
    d->n = kept;
    d->low = 0.0f;
    d->summed = false;
}

static void top_p(const og_sampler *s, og_dist *d, og_scratch *scratch) {
    og_dist_sum(s->kernels, d, scratch);
    double goal = (double)s->params.top_p * d->total;
    if (!(goal > 0.0)) goal = DBL_MIN; /* a single token reaches it */
    if (goal >= d->total) return;
    const og_nucleus nucleus = og_select_nucleus(s->kernels, d->weights, d->n, d->block_top,
                                                 d->total, goal, &scratch->lists);
    if (nucleus.listed >= 0 && s->params.min_keep <= 1) {
        take_list(d, nucleus.cut, nucleus.listed, scratch);
    } else {
        apply_cut(d, keep_some(nucleus.cut, d->weights, d->n, s->params.min_keep));
    }
}

static void min_p(const og_sampler *s, og_dist *d) {
    const float border = s->params.min_p * d->top;
    if (border <= d->low) return;
    const og_cut cut = {border, INT32_MAX, false};
    apply_cut(d, keep_some(cut, d->weights, d->n, s->params.min_keep));
}

static void p_less(const og_sampler *s, og_dist *d, og_scratch *scratch) {
    og_dist_sum(s->kernels, d, scratch);
    const og_dist c = *d;
    /* Fixed lanes, so that every compiler adds in the same order. */
    double squares[OG_LANES] = {0};
    for (int32_t i = 0; i < c.n; i++) {
        const double w = og_dist_keeps(&c, i) ? (double)c.weights[i] : 0.0;
        squares[i % OG_LANES] += w * w;
    }
    double square = 0.0;
    for (int lane = 0; lane < OG_LANES; lane++) square += squares[lane];
    const double exact = square / c.total;
    float border = (float)exact;
    if ((double)border < exact) border = nextafterf(border, INFINITY);
    if (border > c.top) border = c.top; /* rounding, if all are equally likely */
    if (border <= c.low) return;
    const og_cut cut = {border, INT32_MAX, false};
    apply_cut(d, keep_some(cut, d->weights, d->n, s->params.min_keep));
}

static int32_t count_kept(const og_dist *d) {
    int32_t kept = 0;
    for (int32_t i = 0; i < d->n; i++) kept += og_dist_keeps(d, i);
    return kept;
}

static void xtc(const og_sampler *s, og_dist *d, og_scratch *scratch) {
    const double coin = og_sampler_uniform(s, OG_STREAM_XTC);
    if (coin >= (double)s->params.xtc_probability) return;
    og_dist_sum(s->kernels, d, scratch);
    const double border = (double)s->params.xtc_threshold * d->total;
    const int32_t min_keep = s->params.min_keep;
    float *weights = d->weights;
    int32_t above = 0, least = -1;
    for (int32_t i = 0; i < d->n; i++) {
        if ((double)weights[i] < border || !og_dist_keeps(d, i)) continue;
        above++;
        if (least < 0 || weights[i] <= weights[least]) least = i;
    }
    if (above < 2) return;
    if (min_keep > 1 && count_kept(d) - (above - 1) < min_keep) return;
    for (int32_t i = 0; i < d->n; i++) {
        if ((double)weights[i] >= border && i != least && og_dist_keeps(d, i)) weights[i] = 0.0f;
    }
    d->summed = false;
}

void og_dist_truncate(const og_sampler *s, og_dist *d, float max, float scale,
                      og_scratch *scratch) {
    const og_params *p = &s->params;
    if (p->typical_p < 1.0f) typical(s, d, max, scale);
    if (p->top_p < 1.0f) top_p(s, d, scratch);
    if (p->min_p > 0.0f) min_p(s, d);
    if (p->p_less) p_less(s, d, scratch);
    if (p->xtc_probability > 0.0f && p->xtc_threshold <= 0.5f) xtc(s, d, scratch);
}
