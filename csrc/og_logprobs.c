#include <assert.h>
#include <math.h>

#include "og_math.h"
#include "og_sampler.h"

enum { FEW_TOP = 8 };

/* Whether a comes before b: it is more likely, or as likely with a lower id. */
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

void og_sampler_logprobs(const og_sampler *s, og_scratch *scratch, const float *logits,
                         int32_t token, float *logprob, og_candidate *top, int32_t n_top) {
    const og_kernels *kernels = s->kernels;
    const int32_t n = s->n_vocab;
    assert(scratch->raw == logits);
    const float *block_max = scratch->raw_max;
    float max = -INFINITY;
    for (int32_t b = 0; b < og_blocks(n); b++) max = block_max[b] > max ? block_max[b] : max;
    const double log_total =
        OG_LN_2 * og_log2(kernels->exp_sum(logits, n, max, (float)OG_LOG2_E, NULL));
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
    scratch->raw = status == OG_OK ? logits : NULL;
    if (status != OG_OK) return status;
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

void og_scratch_logprobs(const og_scratch *scratch, int32_t token, float *logprob,
                         og_candidate *top, int32_t n_top) {
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
        *logprob = (float)(OG_LN_2 * (og_log2((double)scratch->kept_weight) - log_total));
        float low = scratch->kept_low;
        if (n_top > FEW_TOP && n_top < scratch->kept_n) {
            /* Without this, each token of an ascending row would move all entries of top. */
            const og_cut cut = og_select_count(scratch->kept_weights, scratch->kept_n, n_top);
            if (cut.border > low) low = cut.border;
        }
        for (int32_t i = 0; n_top > 0 && i < scratch->kept_n; i++) {
            const float w = scratch->kept_weights[i];
            if (w < low || !(w > 0.0f)) continue;
            const int32_t id = scratch->kept_ids != NULL ? scratch->kept_ids[i] : i;
            const og_candidate candidate = {id, w};
            insert_candidate(top, &size, n_top, candidate);
        }
        for (int32_t i = 0; i < size; i++) {
            top[i].logprob = (float)(OG_LN_2 * (og_log2((double)top[i].logprob) - log_total));
        }
    }
    for (; size < n_top; size++) {
        top[size].token = -1;
        top[size].logprob = -INFINITY;
    }
}
