#include "og_dry.h"

#include <float.h>
#include <string.h>

bool og_dry_is_full(const og_dry *d) { return d->params.last_n < 0 && d->n >= d->capacity; }

void og_dry_add(og_dry *d, int32_t token) {
    if (d->n >= d->capacity) {
        /* Keep the last last_n - 1 tokens. This is rare, as the array has room for 2 * last_n. */
        const int32_t kept = d->params.last_n - 1;
        memmove(d->tokens, d->tokens + d->n - kept, (size_t)kept * sizeof *d->tokens);
        d->n = kept;
    }
    d->tokens[d->n++] = token;
}

static int32_t first_breaker(const og_dry *d, int32_t head) {
    int32_t low = 0, high = d->n_breakers;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (d->breakers[middle].head < head) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The length of the longest breaker tail after t[at], -1 if no breaker begins there. */
static int32_t breaker_at(const og_dry *d, const int32_t *t, int32_t n, int32_t at) {
    int32_t longest = -1;
    for (int32_t b = first_breaker(d, t[at]); b < d->n_breakers && d->breakers[b].head == t[at];
         b++) {
        const int32_t length = d->breakers[b].tail_length;
        if (length <= longest || length > n - 1 - at) continue;
        const int32_t *tail = d->tails + d->breakers[b].tail_begin;
        if (memcmp(tail, t + at + 1, (size_t)length * sizeof *tail) == 0) longest = length;
    }
    return longest;
}

/* The number of tokens at the end that follow the last breaker. */
static int32_t unbroken(const og_dry *d, const int32_t *t, int32_t n) {
    for (int32_t back = 0; back < n; back++) {
        const int32_t length = breaker_at(d, t, n, n - 1 - back);
        if (length >= 0) return back - length;
    }
    return n;
}

/* repeats[k]: how many tokens ending at t[n - 1 - k] equal the tokens at the end. Computed by the
 * Z-algorithm on the reversed text (Gusfield 1997). z[0] is not used. */
static void match_ends(const int32_t *t, int32_t n, int32_t *z) {
    int32_t left = 0, right = 0; /* the match that reaches furthest: [left, right) */
    for (int32_t k = 1; k < n; k++) {
        int32_t length = 0;
        if (k < right) length = z[k - left] < right - k ? z[k - left] : right - k;
        while (k + length < n && t[n - 1 - length] == t[n - 1 - k - length]) length++;
        z[k] = length;
        if (k + length > right) {
            left = k;
            right = k + length;
        }
    }
}

static bool is_breaker(const og_dry *d, int32_t token) {
    for (int32_t b = first_breaker(d, token); b < d->n_breakers && d->breakers[b].head == token;
         b++) {
        if (d->breakers[b].tail_length == 0) return true;
    }
    return false;
}

/* Power by squaring in double precision, because powf gives different bits on different systems. */
static float penalty_of(const og_dry *d, int32_t length) {
    double power = 1.0, factor = (double)d->params.base;
    for (int32_t e = length - d->params.allowed_length; e > 0; e >>= 1) {
        if (e & 1) power *= factor;
        factor *= factor;
    }
    const double penalty = (double)d->params.multiplier * power;
    return penalty < (double)FLT_MAX ? (float)penalty : FLT_MAX;
}

void og_dry_apply(const og_dry *d, og_history *h) {
    const int32_t last_n = d->params.last_n, allowed_length = d->params.allowed_length;
    const int32_t n = last_n >= 0 && last_n < d->n ? last_n : d->n;
    const int32_t *t = d->tokens + (d->n - n);
    if (n <= allowed_length) return;
    const int32_t limit = unbroken(d, t, n);
    if (limit < allowed_length) return;
    match_ends(t, n, d->repeats);
    /* The token after the match at distance k is t[n - k]. The weights of the touched tokens are
     * not used before the row is weighed: until then they hold each token's longest repetition. */
    for (int32_t i = 0; i < h->n; i++) h->weights[i] = -1.0f;
    for (int32_t k = 1; k < n; k++) {
        const int32_t length = d->repeats[k] < limit ? d->repeats[k] : limit;
        if (length < allowed_length) continue;
        float *longest = &h->weights[og_history_find(h, t[n - k])];
        if ((float)length > *longest) *longest = (float)length;
    }
    for (int32_t i = 0; i < h->n; i++) {
        if (h->weights[i] < 0.0f || is_breaker(d, h->token[i])) continue;
        h->adjusted[i] -= penalty_of(d, (int32_t)h->weights[i]);
    }
}
