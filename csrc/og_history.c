#include "og_history.h"

#include <string.h>

size_t og_history_bytes(int32_t capacity) {
    return (size_t)capacity * (4 * sizeof(int32_t) + 2 * sizeof(float));
}

static void place(og_history *h, void *memory, int32_t capacity) {
    /* int32_t and float have the same size and alignment. */
    int32_t *const words = memory;
    float *const floats = memory;
    memset(memory, 0, og_history_bytes(capacity));
    h->token = words;
    h->generated = words + capacity;
    h->window = words + 2 * (size_t)capacity;
    h->bias = floats + 3 * (size_t)capacity;
    h->adjusted = floats + 4 * (size_t)capacity;
    h->weights = floats + 5 * (size_t)capacity;
    h->capacity = capacity;
}

void og_history_init(og_history *h, int32_t n_vocab, void *memory, int32_t capacity,
                     int32_t *in_block, int32_t *ring, int32_t last_n, bool keep) {
    place(h, memory, capacity);
    h->in_block = in_block;
    memset(in_block, 0, (size_t)og_blocks(n_vocab) * sizeof *in_block);
    h->n = 0;
    h->ring = ring;
    h->last_n = last_n;
    h->n_tokens = 0;
    h->keep = keep;
}

void og_history_grow(og_history *h, void *memory, int32_t capacity) {
    const og_history old = *h;
    place(h, memory, capacity);
    const size_t bytes = (size_t)old.n * sizeof(int32_t);
    memcpy(h->token, old.token, bytes);
    memcpy(h->generated, old.generated, bytes);
    memcpy(h->window, old.window, bytes);
    memcpy(h->bias, old.bias, bytes);
}

bool og_history_is_full(const og_history *h) { return h->n >= h->capacity; }

/* The first index whose token is not less. */
static int32_t lower_bound(const og_history *h, int32_t token) {
    int32_t low = 0, high = h->n;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (h->token[middle] < token) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int32_t og_history_find(const og_history *h, int32_t token) {
    const int32_t at = lower_bound(h, token);
    return at < h->n && h->token[at] == token ? at : -1;
}

static void shift(og_history *h, int32_t from, int32_t to) {
    const size_t bytes = (size_t)(h->n - from) * sizeof(int32_t);
    memmove(h->token + to, h->token + from, bytes);
    memmove(h->generated + to, h->generated + from, bytes);
    memmove(h->window + to, h->window + from, bytes);
    memmove(h->bias + to, h->bias + from, bytes);
}

static void set_entry(og_history *h, int32_t at, int32_t token) {
    h->token[at] = token;
    h->generated[at] = 0;
    h->window[at] = 0;
    h->bias[at] = 0.0f;
}

static int32_t find_or_insert(og_history *h, int32_t token) {
    const int32_t at = lower_bound(h, token);
    if (at < h->n && h->token[at] == token) return at;
    shift(h, at, at + 1);
    set_entry(h, at, token);
    h->in_block[token / OG_BLOCK]++;
    h->n++;
    return at;
}

/* Remove a token that no longer has a count or bias, so that steps need not read it. */
static void forget_if_idle(og_history *h, int32_t at) {
    if (h->keep || h->generated[at] > 0 || h->window[at] > 0 || h->bias[at] != 0.0f) return;
    h->in_block[h->token[at] / OG_BLOCK]--;
    shift(h, at + 1, at);
    h->n--;
    set_entry(h, h->n, 0);
}

void og_history_restart(og_history *h) {
    int32_t kept = 0;
    for (int32_t i = 0; i < h->n; i++) {
        if (h->bias[i] == 0.0f) {
            h->in_block[h->token[i] / OG_BLOCK]--;
            continue;
        }
        const float bias = h->bias[i];
        set_entry(h, kept, h->token[i]);
        h->bias[kept++] = bias;
    }
    for (int32_t i = kept; i < h->n; i++) set_entry(h, i, 0);
    h->n = kept;
    h->n_tokens = 0;
}

void og_history_set_bias(og_history *h, int32_t token, float bias) {
    const int32_t at = find_or_insert(h, token);
    h->bias[at] = bias;
    forget_if_idle(h, at);
}

void og_history_add(og_history *h, int32_t token, bool generated) {
    const int32_t at = find_or_insert(h, token);
    h->generated[at] += generated;
    if (h->last_n == 0) {
        forget_if_idle(h, at);
        return;
    }
    h->window[at]++;
    if (h->last_n > 0) {
        int32_t *oldest = &h->ring[h->n_tokens % h->last_n];
        const int32_t leaving = *oldest;
        *oldest = token;
        if (h->n_tokens >= h->last_n) {
            const int32_t left = og_history_find(h, leaving);
            h->window[left]--;
            forget_if_idle(h, left);
        }
    }
    h->n_tokens++;
}
