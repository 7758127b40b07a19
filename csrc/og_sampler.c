#include "og_sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "og_math.h"
#include "og_philox.h"

static const double LOG2_E = 1.4426950408889634;
static const double LN_2 = 0.6931471805599453;

/* --- what a draw works on --------------------------------------------------------------------- */

/* A row with what changes it. */
typedef struct view {
    const float *row;
    const uint32_t *mask;
    og_history *touched; /* its adjusted logits take the place of the row's; NULL for none */
    int32_t n;
} view;

/* Candidates: weights in order of ids. */
typedef struct dist {
    float *weights;  /* n, padded */
    float *logits;   /* of the weights, where a step needs them; else NULL */
    int32_t *ids;    /* NULL where the ids are the indices */
    const float *block_top; /* what no weight of a block exceeds, or NULL where nobody knows */
    int32_t n;
    float low;       /* only weights >= this count */
    float top;       /* the largest weight */
    double total;    /* of the weights >= low; also by block */
    bool summed;     /* whether total and the sums of the blocks are up to date */
} dist;

/* --- scratch ---------------------------------------------------------------------------------- */

static int32_t list_capacity(int32_t n_vocab) {
    const int32_t wanted = n_vocab / 8 > 4096 ? n_vocab / 8 : 4096;
    return og_padded(n_vocab < wanted ? n_vocab : wanted);
}

static size_t lay_out_scratch(og_scratch *s, void *memory, int32_t n_vocab, bool with_row) {
    og_memory m = {memory, 0};
    const size_t row = (size_t)og_padded(n_vocab) * sizeof(float);
    const size_t blocks = (size_t)og_blocks(n_vocab);
    const int32_t capacity = list_capacity(n_vocab);
    const size_t list = ((size_t)capacity + OG_SPARE) * sizeof(float);
    s->weights = og_memory_take(&m, row);
    s->row = with_row ? og_memory_take(&m, row) : NULL;
    s->ids = og_memory_take(&m, list);
    s->raw_max = og_memory_take(&m, blocks * sizeof(float));
    s->block_max = og_memory_take(&m, blocks * sizeof(float));
    s->block_sum = og_memory_take(&m, blocks * sizeof(double));
    s->block_top = og_memory_take(&m, (blocks + OG_LANES) * sizeof(float));
    s->lists.sums = og_memory_take(&m, blocks * sizeof(double));
    for (int i = 0; i < 3; i++) s->lists.values[i] = og_memory_take(&m, list);
    for (int i = 0; i < 2; i++) s->lists.places[i] = og_memory_take(&m, list);
    s->lists.capacity = capacity;
    s->lists.sample = og_memory_take(&m, OG_SAMPLE * sizeof(float));
    return m.used;
}

size_t og_scratch_bytes(int32_t n_vocab, bool with_row) {
    og_scratch unused;
    return lay_out_scratch(&unused, NULL, n_vocab, with_row);
}

void og_scratch_init(og_scratch *scratch, void *memory, int32_t n_vocab, bool with_row) {
    memset(scratch, 0, sizeof *scratch);
    lay_out_scratch(scratch, memory, n_vocab, with_row);
}

/* --- the sampler's memory ---------------------------------------------------------------------- */

/* How many entries the arrays of a sampler have. */
typedef struct extents {
    int32_t blocks, ring, ends, breakers, tails, history, dry;
} extents;

/* Where they lie. */
typedef struct arrays {
    void *history;
    int32_t *in_block, *ring, *tails, *tokens, *repeats;
    og_bias *ends;
    og_breaker *breakers;
} arrays;

static size_t lay_out(arrays *a, void *memory, const extents *n) {
    og_memory m = {memory, 0};
    a->history = og_memory_take(&m, og_history_bytes(n->history));
    a->in_block = og_memory_take(&m, (size_t)n->blocks * sizeof *a->in_block);
    a->ring = og_memory_take(&m, (size_t)n->ring * sizeof *a->ring);
    a->ends = og_memory_take(&m, (size_t)n->ends * sizeof *a->ends);
    a->breakers = og_memory_take(&m, (size_t)n->breakers * sizeof *a->breakers);
    a->tails = og_memory_take(&m, (size_t)n->tails * sizeof *a->tails);
    a->tokens = og_memory_take(&m, (size_t)n->dry * sizeof *a->tokens);
    a->repeats = og_memory_take(&m, (size_t)n->dry * sizeof *a->repeats);
    return m.used;
}

/* -1 for everything. */
static int32_t window_of(int32_t last_n) {
    return last_n < 0 || last_n > OG_MAX_WINDOW ? -1 : last_n;
}

/* The repetition window: it only counts where something reads it. */
static int32_t repetition_window(const og_params *p) {
    return p->penalties.repetition != 1.0f ? window_of(p->repeat_last_n) : 0;
}

/* A capacity of the history: whole lanes, and never more than there are tokens. */
static int32_t history_capacity(int64_t tokens, int32_t n_vocab) {
    return og_padded(tokens < n_vocab ? (int32_t)tokens : n_vocab);
}

static int32_t dry_capacity(const og_dry_params *p, int32_t room) {
    if (!og_dry_is_on(p)) return 0;
    /* A bounded window takes all its room now, and is never full. */
    const int32_t last_n = window_of(p->last_n);
    return last_n > 0 ? 2 * last_n : room;
}

static extents extents_of(const og_config *c) {
    extents n = {.blocks = og_blocks(c->n_vocab)};
    const int32_t window = repetition_window(&c->params);
    n.ring = window > 0 ? window : 0;
    n.ends = c->params.min_tokens > 0 ? c->n_ends : 0;
    n.history = history_capacity((int64_t)c->n_biases + n.ends + c->room, c->n_vocab);
    n.dry = dry_capacity(&c->params.dry, c->room);
    if (n.dry == 0) return n;
    n.breakers = c->n_breakers;
    for (int32_t i = 0; i < c->n_breakers; i++) n.tails += c->breaker_lengths[i] - 1;
    return n;
}

/* A capacity that has room for `needed`: the old one, or at least twice that. */
static int64_t grown(int64_t capacity, int64_t needed) {
    if (needed <= capacity) return capacity;
    return needed > 2 * capacity ? needed : 2 * capacity;
}

static extents extents_grown(const og_sampler *s, int32_t tokens) {
    const og_history *h = &s->history;
    extents n = {.blocks = og_blocks(s->n_vocab)};
    n.ring = h->last_n > 0 ? h->last_n : 0;
    n.ends = s->n_ends;
    n.breakers = s->dry.n_breakers;
    n.tails = s->dry.n_tails;
    n.history = history_capacity(grown(h->capacity, (int64_t)h->n + tokens), s->n_vocab);
    n.dry = s->dry.capacity;
    if (og_dry_is_on(&s->dry.params) && s->dry.params.last_n < 0) {
        n.dry = (int32_t)grown(s->dry.capacity, (int64_t)s->dry.n + tokens);
    }
    return n;
}

size_t og_sampler_bytes(const og_config *config) {
    arrays unused;
    const extents n = extents_of(config);
    return lay_out(&unused, NULL, &n);
}

size_t og_sampler_reserve_bytes(const og_sampler *s, int32_t tokens) {
    arrays unused;
    const extents n = extents_grown(s, tokens);
    return lay_out(&unused, NULL, &n);
}

/* --- setting up ------------------------------------------------------------------------------- */

static void init_history(og_sampler *s, const og_config *c, const arrays *a, const extents *n) {
    og_history *h = &s->history;
    og_history_init(h, c->n_vocab, a->history, n->history, a->in_block, n->ring > 0 ? a->ring : NULL,
                    repetition_window(&c->params), og_dry_is_on(&c->params.dry));
    for (int32_t i = 0; i < c->n_biases; i++) {
        og_history_set_bias(h, c->biases[i].token, c->biases[i].bias);
    }
    s->ends = a->ends;
    s->n_ends = n->ends;
    for (int32_t i = 0; i < n->ends; i++) {
        const int32_t at = og_history_find(h, c->ends[i]);
        s->ends[i].token = c->ends[i];
        s->ends[i].bias = at >= 0 ? h->bias[at] : 0.0f;
    }
    for (int32_t i = 0; i < n->ends; i++) og_history_set_bias(h, s->ends[i].token, -INFINITY);
}

static void init_dry(og_dry *d, const og_config *c, const arrays *a, const extents *n) {
    d->params = c->params.dry;
    d->params.last_n = window_of(d->params.last_n);
    d->tokens = a->tokens;
    d->repeats = a->repeats;
    d->capacity = n->dry;
    d->breakers = a->breakers;
    d->n_breakers = n->breakers;
    d->tails = a->tails;
    const int32_t *tokens = c->breakers;
    for (int32_t i = 0; i < n->breakers; i++) {
        const og_breaker breaker = {tokens[0], d->n_tails, c->breaker_lengths[i] - 1};
        for (int32_t k = 0; k < breaker.tail_length; k++) a->tails[d->n_tails++] = tokens[k + 1];
        tokens += c->breaker_lengths[i];
        int32_t at = i;
        for (; at > 0 && a->breakers[at - 1].head > breaker.head; at--) {
            a->breakers[at] = a->breakers[at - 1];
        }
        a->breakers[at] = breaker;
    }
}

void og_sampler_init(og_sampler *s, const og_config *config, void *memory) {
    const extents n = extents_of(config);
    arrays a;
    lay_out(&a, memory, &n);
    memset(s, 0, sizeof *s);
    s->kernels = config->kernels != NULL ? config->kernels : og_kernels_best();
    s->n_vocab = config->n_vocab;
    s->params = config->params;
    s->seed = config->seed;
    s->choice = config->choice;
    s->mu = 2.0 * (double)config->params.mirostat_tau;
    s->counts = og_params_need_counts(&config->params);
    init_history(s, config, &a, &n);
    init_dry(&s->dry, config, &a, &n);
}

bool og_sampler_is_full(const og_sampler *s) {
    if (!s->counts) return false;
    /* A history of all tokens is never asked to hold another. */
    return (og_history_is_full(&s->history) && s->history.n < s->n_vocab) ||
           (og_dry_is_on(&s->dry.params) && og_dry_is_full(&s->dry));
}

static void *copy(void *to, const void *from, size_t bytes) {
    if (bytes > 0) memcpy(to, from, bytes);
    return to;
}

void og_sampler_reserve(og_sampler *s, int32_t tokens, void *memory) {
    const extents n = extents_grown(s, tokens);
    og_history *h = &s->history;
    og_dry *d = &s->dry;
    arrays a;
    lay_out(&a, memory, &n);
    og_history_grow(h, a.history, n.history);
    h->in_block = copy(a.in_block, h->in_block, (size_t)n.blocks * sizeof *a.in_block);
    if (n.ring > 0) h->ring = copy(a.ring, h->ring, (size_t)n.ring * sizeof *a.ring);
    s->ends = copy(a.ends, s->ends, (size_t)n.ends * sizeof *a.ends);
    d->breakers = copy(a.breakers, d->breakers, (size_t)n.breakers * sizeof *a.breakers);
    d->tails = copy(a.tails, d->tails, (size_t)n.tails * sizeof *a.tails);
    d->tokens = copy(a.tokens, d->tokens, (size_t)d->n * sizeof *a.tokens);
    d->repeats = a.repeats;
    d->capacity = n.dry;
}

int32_t og_sampler_lookback(const og_sampler *s) {
    return og_dry_is_on(&s->dry.params) ? -1 : s->history.last_n;
}

/* --- bias and penalties ------------------------------------------------------------------------ */

static bool mask_allows(const uint32_t *mask, int32_t token) {
    return mask == NULL || (mask[token / OG_MASK_WORD] >> (token % OG_MASK_WORD) & 1u);
}

/* Work out the logits of the touched tokens. */
static void adjust(og_sampler *s, const float *logits, const uint32_t *mask) {
    og_history *h = &s->history;
    const og_touched touched = {h->token, h->bias, h->generated, h->window, h->n};
    s->kernels->penalise(logits, &touched, &s->params.penalties, h->adjusted);
    if (og_dry_is_on(&s->dry.params)) og_dry_apply(&s->dry, h);
    if (mask == NULL) return;
    for (int32_t k = 0; k < h->n; k++) {
        if (!mask_allows(mask, h->token[k])) h->adjusted[k] = -INFINITY;
    }
}

/* A copy of the row with everything that changes it. */
static void copy_row(const view *v, float *row) {
    memcpy(row, v->row, (size_t)v->n * sizeof *row);
    for (int32_t i = 0; v->mask != NULL && i < v->n; i++) {
        if (!mask_allows(v->mask, i)) row[i] = -INFINITY;
    }
    for (int32_t k = 0; v->touched != NULL && k < v->touched->n; k++) {
        row[v->touched->token[k]] = v->touched->adjusted[k];
    }
}

/* The largest of a block's logits that the mask allows and that are not touched. `first`: the block's
 * first touched token. */
static float own_max(const og_kernels *kernels, const view *v, int32_t block, int32_t first) {
    const int32_t start = block * OG_BLOCK;
    const int32_t length = v->n - start < OG_BLOCK ? v->n - start : OG_BLOCK;
    const float *row = v->row + start;
    const og_history *h = v->touched;
    float changed[OG_BLOCK], max;
    if (h != NULL && h->in_block[block] > 0) {
        memcpy(changed, row, (size_t)length * sizeof *changed);
        for (int32_t k = first; k < first + h->in_block[block]; k++) {
            changed[h->token[k] - start] = -INFINITY;
        }
        row = changed;
    }
    kernels->scan(row, v->mask == NULL ? NULL : v->mask + start / OG_MASK_WORD, length, &max);
    return max;
}

/* The largest logit. block_max begins as the maxima of the row as it came and becomes what no logit of
 * a block exceeds with mask, bias and penalties, and none of them exceeds the largest: a block in
 * which that could be wrong is worked out. Mostly that is one block or two. */
static float highest(const og_kernels *kernels, const view *v, float *block_max, float *adjusted_max) {
    const int32_t blocks = og_blocks(v->n);
    float best = -INFINITY;
    const og_history *h = v->touched;
    if (h != NULL) {
        /* NaN cannot be among them; +infinity is the caller's to see. */
        kernels->scan(h->adjusted, NULL, h->n, adjusted_max);
        for (int32_t b = 0; b < og_blocks(h->n); b++) {
            if (adjusted_max[b] > best) best = adjusted_max[b];
        }
    }
    for (int32_t b = 0; v->mask == NULL && b < blocks; b++) {
        if ((h == NULL || h->in_block[b] == 0) && block_max[b] > best) best = block_max[b];
    }
    if (v->mask == NULL && h == NULL) return best;
    for (int32_t b = 0, first = 0; b < blocks; b++) {
        const int32_t touched = h == NULL ? 0 : h->in_block[b];
        if (block_max[b] > best && (touched > 0 || v->mask != NULL)) {
            block_max[b] = own_max(kernels, v, b, first);
            if (block_max[b] > best) best = block_max[b];
        }
        for (int32_t k = first; k < first + touched; k++) {
            if (h->adjusted[k] > block_max[b]) block_max[b] = h->adjusted[k];
        }
        first += touched;
    }
    return best;
}

/* The lowest id with the largest logit. */
static int32_t argmax(const view *v, const float *block_max, float max) {
    const og_history *h = v->touched;
    int32_t candidate = INT32_MAX;
    for (int32_t k = 0; h != NULL && k < h->n && candidate == INT32_MAX; k++) {
        if (h->adjusted[k] == max) candidate = h->token[k];
    }
    for (int32_t start = 0; start < v->n && start < candidate; start += OG_BLOCK) {
        if (block_max[start / OG_BLOCK] < max) continue;
        const int32_t end = v->n - start < OG_BLOCK ? v->n : start + OG_BLOCK;
        for (int32_t i = start; i < end && i < candidate; i++) {
            if (v->row[i] == max && mask_allows(v->mask, i) &&
                (h == NULL || og_history_find(h, i) < 0)) {
                return i;
            }
        }
    }
    return candidate;
}

/* --- temperature ------------------------------------------------------------------------------ */

/* Entropy in bits of the softmax of a row. */
static double entropy_bits(const og_kernels *kernels, const float *logits, int32_t n, float max,
                           float scale) {
    double moment;
    const double total = kernels->exp_sum(logits, n, max, scale, &moment);
    const double bits = og_log2(total) - moment / total;
    return bits > 0.0 ? bits : 0.0;
}

/* Divided by less than that, logits would overflow. */
static bool is_greedy(float temperature) { return temperature < FLT_MIN; }

static float temperature_of(const og_sampler *s, const view *v, float max) {
    const og_params *p = &s->params;
    if (is_greedy(p->temperature) || !(p->dynatemp_range > 0.0f)) return p->temperature;
    int32_t candidates = 0;
    for (int32_t i = 0; i < v->n; i++) candidates += v->row[i] != -INFINITY;
    if (candidates <= 1) return p->temperature;
    const double bits = entropy_bits(s->kernels, v->row, v->n, max, (float)LOG2_E);
    const double share = bits / og_log2((double)candidates);
    const double range = (double)p->dynatemp_range, middle = (double)p->temperature;
    const double low = middle > range ? middle - range : 0.0, high = middle + range;
    const double power = share > 0.0 ? og_exp2((double)p->dynatemp_exponent * og_log2(share))
                                     : (p->dynatemp_exponent > 0.0f ? 0.0 : 1.0);
    return (float)(low + (high - low) * power);
}

/* log2(e) / temperature, for the kernels; finite where it is not greedy. */
static float scale_of(float temperature) { return (float)(LOG2_E / (double)temperature); }

static double add_blocks(const double *block_sum, int32_t n) {
    double total = 0.0;
    for (int32_t b = 0; b < og_blocks(n); b++) total += block_sum[b];
    return total;
}

/* Weigh every token, and the bounds of the blocks: equal logits have equal weights. */
static dist weigh_all(const og_kernels *kernels, const view *v, float max, float scale,
                      og_scratch *scratch) {
    og_history *h = v->touched;
    const int32_t blocks = og_blocks(v->n);
    double *unused = scratch->lists.sums;
    kernels->weigh(scratch->block_max, NULL, blocks, max, scale, NULL, scratch->block_top, unused);
    if (h == NULL) {
        kernels->weigh(v->row, v->mask, v->n, max, scale, NULL, scratch->weights, scratch->block_sum);
    } else {
        const og_patch patch = {h->token, h->adjusted, h->in_block};
        kernels->weigh(v->row, v->mask, v->n, max, scale, &patch, scratch->weights, scratch->block_sum);
    }
    /* The exponential may err in the last place either way. */
    for (int32_t b = 0; b < blocks; b++) scratch->block_top[b] *= 1.000001f;
    dist d = {scratch->weights, NULL, NULL, scratch->block_top, v->n, 0.0f, 1.0f, 0.0, true};
    d.total = add_blocks(scratch->block_sum, v->n);
    return d;
}

/* --- truncation ------------------------------------------------------------------------------- */

static void fill_pad(float *weights, int32_t n) {
    for (int32_t i = n; i < og_padded(n); i++) weights[i] = 0.0f;
}

static void update_sums(const og_kernels *kernels, dist *d, og_scratch *scratch) {
    if (d->summed) return;
    d->total = kernels->sum(d->weights, d->n, d->low, d->block_top, scratch->block_sum);
    d->summed = true;
}

static bool is_kept(const dist *d, int32_t i) {
    return d->weights[i] >= d->low && d->weights[i] > 0.0f;
}

/* Whether an element that equals or exceeds the border stays; *ties counts down. */
static bool passes(float value, og_cut cut, int32_t *ties) {
    if (value != cut.border) return value > cut.border;
    return (*ties)-- > 0;
}

/* A cut that keeps at least min_keep: the lower of the two. */
static og_cut keep_some(og_cut cut, const float *values, int32_t n, int32_t min_keep) {
    if (min_keep <= 1) return cut;
    int32_t above = 0, equal = 0;
    for (int32_t i = 0; i < n; i++) {
        above += values[i] > cut.border;
        equal += values[i] == cut.border;
    }
    const int32_t kept = above + (cut.ties < equal ? cut.ties : equal);
    if (kept >= min_keep) return cut; /* as nearly always; selecting takes far longer */
    const og_cut least = og_select_count(values, n, min_keep < n ? min_keep : n);
    if (least.border > cut.border) return cut;
    if (least.border == cut.border && least.ties <= cut.ties) return cut;
    return least;
}

/* Drop the ties that a cut does not keep, and everything below it. */
static void apply_cut(dist *d, og_cut cut) {
    int32_t ties = cut.ties;
    for (int32_t i = 0; cut.more && i < d->n; i++) {
        if (d->weights[i] == cut.border && !passes(cut.border, cut, &ties)) d->weights[i] = 0.0f;
    }
    if (cut.border > d->low) d->low = cut.border;
    d->summed = false;
}

static void top_n_sigma(const og_params *p, float max, float *row, int32_t n) {
    /* Fixed lanes, so that every compiler adds in the same order. */
    double sums[OG_LANES] = {0}, squares[OG_LANES] = {0};
    int32_t counts[OG_LANES] = {0};
    for (int32_t i = 0; i < n; i++) {
        if (row[i] == -INFINITY) continue;
        /* Distances from the maximum: squares of large logits would cancel. */
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
    /* What min_keep wants: nothing where one token is enough, the largest always stays. */
    og_cut least = {INFINITY, 0, false};
    if (p->min_keep > 1) least = og_select_count(row, n, p->min_keep < n ? p->min_keep : n);
    int32_t ties = least.ties;
    for (int32_t i = 0; i < n; i++) {
        const bool wanted = passes(row[i], least, &ties);
        if (!wanted && (double)row[i] - (double)max < border) row[i] = -INFINITY;
    }
}

/* Keep the k largest logits of a row: in ids and the beginning of the row where the list is short
 * enough (returns how many), else in the row itself, the others at -infinity (returns -1). */
static int32_t top_k(const og_kernels *kernels, int32_t k, float *row, int32_t n, og_scratch *scratch) {
    const int32_t listed = og_select_largest(kernels, row, n, scratch->block_max, k, &scratch->lists);
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

/* The candidates of a changed copy of the row: all, or the top_k. */
static dist weigh_copy(const og_kernels *kernels, float *row, int32_t n, int32_t k, float max,
                       float scale, og_scratch *scratch) {
    const int32_t listed = k > 0 && k < n ? top_k(kernels, k, row, n, scratch) : -1;
    const view v = {row, NULL, NULL, listed < 0 ? n : listed};
    dist d = weigh_all(kernels, &v, max, scale, scratch);
    d.logits = row;
    if (listed < 0) return d;
    d.ids = scratch->ids;
    d.block_top = NULL;
    return d;
}

static void typical(const og_sampler *s, dist *d, float max, float scale) {
    const double log_total = og_log2(d->total);
    const double entropy = entropy_bits(s->kernels, d->logits, d->n, max, scale);
    /* The logits are not needed any more: keys take their place. */
    float *keys = d->logits;
    for (int32_t i = 0; i < d->n; i++) {
        const double information = log_total - ((double)keys[i] - (double)max) * (double)scale;
        const double distance = information - entropy;
        keys[i] = d->weights[i] > 0.0f ? (float)(distance < 0.0 ? distance : -distance) : -INFINITY;
    }
    /* "Exceeds": the next larger goal. A set of mass 0 is never enough. */
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

/* Make the candidates those of the first list that a cut keeps. */
static void take_list(dist *d, og_cut cut, int32_t listed, og_scratch *scratch) {
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

static void top_p(const og_sampler *s, dist *d, og_scratch *scratch) {
    update_sums(s->kernels, d, scratch);
    double goal = (double)s->params.top_p * d->total;
    if (!(goal > 0.0)) goal = DBL_MIN; /* one token reaches it */
    if (goal >= d->total) return;
    const og_nucleus nucleus =
        og_select_nucleus(s->kernels, d->weights, d->n, d->block_top, d->total, goal, &scratch->lists);
    if (nucleus.listed >= 0 && s->params.min_keep <= 1) {
        take_list(d, nucleus.cut, nucleus.listed, scratch);
    } else {
        apply_cut(d, keep_some(nucleus.cut, d->weights, d->n, s->params.min_keep));
    }
}

static void min_p(const og_sampler *s, dist *d) {
    const float border = s->params.min_p * d->top;
    if (border <= d->low) return;
    const og_cut cut = {border, INT32_MAX, false};
    apply_cut(d, keep_some(cut, d->weights, d->n, s->params.min_keep));
}

static void xtc(const og_sampler *s, dist *d, og_scratch *scratch) {
    const double coin = og_philox_uniform(s->seed, s->choice, s->position, OG_STREAM_XTC);
    if (coin >= (double)s->params.xtc_probability) return;
    update_sums(s->kernels, d, scratch);
    const double border = (double)s->params.xtc_threshold * d->total;
    int32_t kept = 0, above = 0, least = -1;
    for (int32_t i = 0; i < d->n; i++) {
        if (!is_kept(d, i)) continue;
        kept++;
        if ((double)d->weights[i] < border) continue;
        above++;
        if (least < 0 || d->weights[i] <= d->weights[least]) least = i;
    }
    if (above < 2 || kept - (above - 1) < s->params.min_keep) return;
    for (int32_t i = 0; i < d->n; i++) {
        if (i != least && is_kept(d, i) && (double)d->weights[i] >= border) d->weights[i] = 0.0f;
    }
    d->summed = false;
}

static void apply_truncation(const og_sampler *s, dist *d, float max, float scale, og_scratch *scratch) {
    const og_params *p = &s->params;
    if (p->typical_p < 1.0f) typical(s, d, max, scale);
    if (p->top_p < 1.0f) top_p(s, d, scratch);
    if (p->min_p > 0.0f) min_p(s, d);
    if (p->xtc_probability > 0.0f && p->xtc_threshold <= 0.5f) xtc(s, d, scratch);
}

/* --- mirostat --------------------------------------------------------------------------------- */

/* Mirostat 1: the k for which the expected surprise is mu, after estimating from the most likely
 * tokens how fast the probabilities fall (Basu et al. 2021, algorithm 1; m = 100). */
static int32_t mirostat_k(const og_sampler *s, const float *row, int32_t n, float scale,
                          og_scratch *scratch) {
    enum { M = 100 };
    float best[M];
    const int32_t wanted = n < M ? n : M;
    const int32_t size = og_select_top(s->kernels, row, n, scratch->block_max, wanted,
                                       &scratch->lists, best);
    double product = 0.0, square = 0.0;
    for (int32_t i = 0; i + 1 < size && i < M - 1 && best[i + 1] > -INFINITY; i++) {
        const double t = LN_2 * og_log2((double)(i + 2) / (double)(i + 1));
        const double b = ((double)best[i] - (double)best[i + 1]) * (double)scale * LN_2;
        product += t * b;
        square += t * t;
    }
    if (square == 0.0) return 1;
    const double s_hat = product / square, epsilon = s_hat - 1.0;
    const double fall = 1.0 - og_exp2(-epsilon * og_log2((double)n));
    /* Where s_hat is 1, the limit of epsilon / (1 - n^-epsilon). */
    const double slope = fall == 0.0 ? 1.0 / (LN_2 * og_log2((double)n)) : epsilon / fall;
    const double base = slope * og_exp2(s->mu);
    if (!(s_hat > 0.0) || !(base > 0.0)) return n; /* flat: nothing to cut */
    const double k = og_exp2(og_log2(base) / s_hat);
    if (k >= (double)n) return n;
    return k >= 1.0 ? (int32_t)k : 1;
}

static dist weigh_for_mirostat(const og_sampler *s, float *row, int32_t n, float max, float scale,
                     og_scratch *scratch) {
    const int32_t k = s->params.mirostat == 1 ? mirostat_k(s, row, n, scale, scratch) : 0;
    dist d = weigh_copy(s->kernels, row, n, k, max, scale, scratch);
    if (s->params.mirostat == 2) {
        const double border = d.total * og_exp2(-s->mu);
        d.low = border < 1.0 ? (float)border : 1.0f; /* the most likely one always stays */
        d.summed = false;
    }
    return d;
}

/* --- draw ------------------------------------------------------------------------------------- */

/* Inverse CDF in order of ids. Whole blocks are skipped by their sums, the same that made the total.
 * Returns an index; at least one weight counts. */
static int32_t draw(const dist *d, const double *block_sum, double u) {
    const double target = u * d->total;
    double before = 0.0;
    int32_t last = 0; /* the last candidate: what rounding falls back to */
    for (int32_t start = 0; start < d->n; start += OG_BLOCK) {
        const double block = block_sum[start / OG_BLOCK];
        const bool inside = before + block > target;
        const int32_t end = d->n - start < OG_BLOCK ? d->n : start + OG_BLOCK;
        double running = before;
        for (int32_t i = start; (inside || end == d->n) && i < end; i++) {
            if (!is_kept(d, i)) continue;
            last = i;
            running += (double)d->weights[i];
            if (running > target) return i;
        }
        /* Rounding inside the block may miss what its sum promised: its last token it is. */
        if (inside) return last;
        before += block;
    }
    return last;
}

/* Remember what a draw was made from. */
static void remember(og_scratch *scratch, const dist *d, int32_t drawn) {
    scratch->kept_weight = d->weights[drawn];
    scratch->kept_ids = d->ids;
    scratch->kept_n = d->n;
    scratch->kept_low = d->low;
    scratch->kept_total = d->total;
}

enum og_status og_sampler_draw(og_sampler *s, og_scratch *scratch, const float *logits,
                               const uint32_t *mask, int32_t *token) {
    const og_kernels *kernels = s->kernels;
    const og_params *p = &s->params;
    view v = {logits, mask, s->history.n > 0 ? &s->history : NULL, s->n_vocab};
    const enum og_status status = kernels->scan(logits, NULL, v.n, scratch->raw_max);
    if (status != OG_OK) return status;
    scratch->raw = logits;
    memcpy(scratch->block_max, scratch->raw_max, (size_t)og_blocks(v.n) * sizeof(float));
    if (v.touched != NULL) adjust(s, logits, mask);
    const bool copied = og_params_need_row(p) && !is_greedy(p->temperature);
    if (copied) {
        copy_row(&v, scratch->row);
        if (mask != NULL || v.touched != NULL) {
            const enum og_status changed = kernels->scan(scratch->row, NULL, v.n, scratch->block_max);
            if (changed != OG_OK) return changed;
        }
        v.row = scratch->row;
        v.mask = NULL;
        v.touched = NULL;
    }
    const float max = highest(kernels, &v, scratch->block_max, scratch->block_top);
    if (max == INFINITY) return OG_ERR_INFINITE;
    if (max == -INFINITY) return OG_ERR_NO_CANDIDATE;
    const float temperature = temperature_of(s, &v, max);
    scratch->greedy = is_greedy(temperature);
    if (scratch->greedy) {
        *token = argmax(&v, scratch->block_max, max);
        s->position++;
        return OG_OK;
    }
    const float scale = scale_of(temperature);
    if (copied && p->top_n_sigma > 0.0f && p->mirostat == 0) {
        top_n_sigma(p, max, scratch->row, v.n);
    }
    dist d;
    if (p->mirostat != 0) {
        d = weigh_for_mirostat(s, scratch->row, v.n, max, scale, scratch);
    } else {
        const int32_t k = p->top_k > 0 && p->top_k < p->min_keep ? p->min_keep : p->top_k;
        d = copied ? weigh_copy(kernels, scratch->row, v.n, k, max, scale, scratch)
                   : weigh_all(kernels, &v, max, scale, scratch);
        apply_truncation(s, &d, max, scale, scratch);
    }
    update_sums(kernels, &d, scratch);
    const double u = og_philox_uniform(s->seed, s->choice, s->position, OG_STREAM_DRAW);
    const int32_t drawn = draw(&d, scratch->block_sum, u);
    if (p->mirostat != 0) {
        const double surprise = og_log2(d.total) - og_log2((double)d.weights[drawn]);
        s->mu -= (double)p->mirostat_eta * (surprise - (double)p->mirostat_tau);
    }
    *token = d.ids != NULL ? d.ids[drawn] : drawn;
    remember(scratch, &d, drawn);
    s->position++;
    return OG_OK;
}

/* Count a token, of the prompt or generated. */
static void count_token(og_sampler *s, int32_t token, bool generated) {
    if (!s->counts) return;
    og_history_add(&s->history, token, generated);
    if (og_dry_is_on(&s->dry.params)) og_dry_add(&s->dry, token);
}

void og_sampler_accept_prompt(og_sampler *s, int32_t token) {
    count_token(s, token, false);
}

void og_sampler_accept(og_sampler *s, int32_t token) {
    s->n_generated++;
    if (s->n_generated == s->params.min_tokens) {
        for (int32_t i = 0; i < s->n_ends; i++) {
            og_history_set_bias(&s->history, s->ends[i].token, s->ends[i].bias);
        }
    }
    count_token(s, token, true);
}

/* --- logprobs --------------------------------------------------------------------------------- */

enum { FEW_TOP = 8 };

/* Whether a stands before b: more likely, or as likely with a lower id. */
static bool better(og_candidate a, og_candidate b) {
    return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

/* Keep the n_top best in `top`, best first, by insertion: most values fail the first comparison. */
static void insert_candidate(og_candidate *top, int32_t *size, int32_t n_top, og_candidate value) {
    if (*size == n_top && !better(value, top[n_top - 1])) return;
    int32_t at = *size < n_top ? (*size)++ : n_top - 1;
    for (; at > 0 && better(value, top[at - 1]); at--) top[at] = top[at - 1];
    top[at] = value;
}

void og_sampler_logprobs(const og_sampler *s, og_scratch *scratch, const float *logits, int32_t token,
                 float *logprob, og_candidate *top, int32_t n_top) {
    const og_kernels *kernels = s->kernels;
    const int32_t n = s->n_vocab;
    assert(scratch->raw == logits);
    const float *block_max = scratch->raw_max;
    float max = -INFINITY;
    for (int32_t b = 0; b < og_blocks(n); b++) max = block_max[b] > max ? block_max[b] : max;
    const double log_total = LN_2 * og_log2(kernels->exp_sum(logits, n, max, (float)LOG2_E, NULL));
    *logprob = (float)((double)logits[token] - (double)max - log_total);
    if (n_top == 0) return;
    const int32_t listed = og_select_largest(kernels, logits, n, block_max, n_top, &scratch->lists);
    int32_t size = 0;
    for (int32_t i = 0; i < (listed < 0 ? n : listed); i++) {
        const int32_t id = listed < 0 ? i : scratch->lists.places[0][i];
        const og_candidate candidate = {id, logits[id]};
        insert_candidate(top, &size, n_top, candidate);
    }
    for (int32_t i = 0; i < size; i++) {
        top[i].logprob = (float)((double)top[i].logprob - (double)max - log_total);
    }
}

enum og_status og_sampler_score(const og_sampler *s, og_scratch *scratch, const float *logits,
                                int32_t token, float *logprob, int32_t *rank, og_candidate *top,
                                int32_t n_top) {
    const int32_t n = s->n_vocab;
    const enum og_status status = s->kernels->scan(logits, NULL, n, scratch->raw_max);
    if (status != OG_OK) return status;
    scratch->raw = logits;
    bool any = false;
    for (int32_t b = 0; b < og_blocks(n); b++) any = any || scratch->raw_max[b] > -INFINITY;
    if (!any) return OG_ERR_NO_CANDIDATE;
    og_sampler_logprobs(s, scratch, logits, token, logprob, top, n_top);
    const float own = logits[token];
    int32_t above = 0;
    for (int32_t i = 0; i < n; i++) above += logits[i] > own;
    *rank = above + 1;
    return OG_OK;
}

void og_scratch_logprobs(const og_scratch *scratch, int32_t token, float *logprob, og_candidate *top,
                      int32_t n_top) {
    int32_t size = 0;
    if (scratch->greedy) {
        *logprob = 0.0f;
        if (n_top > 0) {
            top[0].token = token;
            top[0].logprob = 0.0f;
            size = 1;
        }
    } else {
        const double log_total = og_log2(scratch->kept_total);
        *logprob = (float)(LN_2 * (og_log2((double)scratch->kept_weight) - log_total));
        float low = scratch->kept_low;
        if (n_top > FEW_TOP && n_top < scratch->kept_n) {
            /* Else a row in ascending order would move all of them for every one of its tokens. */
            const og_cut cut = og_select_count(scratch->weights, scratch->kept_n, n_top);
            if (cut.border > low) low = cut.border;
        }
        for (int32_t i = 0; n_top > 0 && i < scratch->kept_n; i++) {
            const float w = scratch->weights[i];
            if (w < low || !(w > 0.0f)) continue;
            const int32_t id = scratch->kept_ids != NULL ? scratch->kept_ids[i] : i;
            const og_candidate candidate = {id, w};
            insert_candidate(top, &size, n_top, candidate);
        }
        for (int32_t i = 0; i < size; i++) {
            top[i].logprob = (float)(LN_2 * (og_log2((double)top[i].logprob) - log_total));
        }
    }
    for (; size < n_top; size++) {
        top[size].token = -1;
        top[size].logprob = -INFINITY;
    }
}
