/* og_history against an array with a place for every token. */
#include "og_history.h"

#include <stdlib.h>

#include "check.h"
#include "rig.h"

enum { N_VOCAB = 1300, STEPS = 1500 };

typedef struct naive {
    float bias[N_VOCAB];
    int32_t generated[N_VOCAB];
    int32_t window[N_VOCAB];
    bool seen[N_VOCAB];
    int32_t added[STEPS];
    int32_t n;
} naive;

static void naive_add(naive *m, int32_t token, bool generated, int32_t last_n) {
    m->seen[token] = true;
    m->generated[token] += generated;
    m->added[m->n++] = token;
    if (last_n == 0) return;
    m->window[token]++;
    if (last_n > 0 && m->n > last_n) m->window[m->added[m->n - 1 - last_n]]--;
}

static void naive_restart(naive *m) {
    m->n = 0;
    for (int32_t token = 0; token < N_VOCAB; token++) {
        m->generated[token] = 0;
        m->window[token] = 0;
        m->seen[token] = m->bias[token] != 0.0f;
    }
}

static bool naive_holds(const naive *m, int32_t token, bool keep) {
    if (keep && m->seen[token]) return true;
    return m->bias[token] != 0.0f || m->generated[token] > 0 || m->window[token] > 0;
}

static void compare(const og_history *h, const naive *m) {
    int32_t at = 0, in_block[(N_VOCAB + OG_BLOCK - 1) / OG_BLOCK] = {0};
    for (int32_t token = 0; token < N_VOCAB; token++) {
        const int32_t found = og_history_find(h, token);
        if (!naive_holds(m, token, h->keep)) {
            CHECK(found == -1, "token %d is still known", token);
            continue;
        }
        in_block[token / OG_BLOCK]++;
        CHECK(found == at && h->token[at] == token, "token %d at %d, not %d", token, found, at);
        CHECK(h->bias[at] == m->bias[token], "bias of %d", token);
        CHECK(h->generated[at] == m->generated[token], "generated of %d", token);
        CHECK(h->window[at] == m->window[token], "window of %d", token);
        at++;
    }
    CHECK(h->n == at, "%d tokens, not %d", h->n, at);
    CHECK(memcmp(h->in_block, in_block, sizeof in_block) == 0, "tokens of the blocks");
    for (; at < h->capacity; at++) {
        CHECK(h->token[at] == 0 && h->bias[at] == 0.0f, "padding at %d", at);
        CHECK(h->generated[at] == 0 && h->window[at] == 0, "padding at %d", at);
    }
}

static void *grown(og_history *h, void *memory) {
    if (!og_history_is_full(h)) return memory;
    const int32_t capacity = h->capacity + OG_LANES;
    void *larger = rig_heap.take(og_history_bytes(capacity));
    og_history_grow(h, larger, capacity);
    free(memory);
    return larger;
}

static void test(int32_t last_n, bool keep, int32_t tokens, uint64_t seed) {
    static naive m;
    memset(&m, 0, sizeof m);
    og_history h;
    void *memory = rig_heap.take(og_history_bytes(OG_LANES));
    int32_t *in_block = rig_heap.take((size_t)og_blocks(N_VOCAB) * sizeof *in_block);
    int32_t *ring = last_n > 0 ? rig_heap.take((size_t)last_n * sizeof *ring) : NULL;
    og_history_init(&h, N_VOCAB, memory, OG_LANES, in_block, ring, last_n, keep);
    for (int step = 0; step < STEPS; step++) {
        /* Few distinct tokens repeat often; the last one of the vocabulary is among them. */
        const int32_t token = N_VOCAB - 1 - random_below(&seed, tokens) * (N_VOCAB / tokens);
        memory = grown(&h, memory);
        if (random_below(&seed, 4) == 0) {
            m.bias[token] = random_below(&seed, 2) ? 0.0f : random_unit(&seed);
            m.seen[token] = true;
            og_history_set_bias(&h, token, m.bias[token]);
        } else {
            const bool generated = random_below(&seed, 8) == 0;
            naive_add(&m, token, generated, last_n);
            og_history_add(&h, token, generated);
        }
        if (random_below(&seed, 200) == 0) {
            naive_restart(&m);
            og_history_restart(&h);
        }
        if (step % 7 == 0 || step < 50) compare(&h, &m);
    }
    free(memory);
    free(in_block);
    free(ring);
}

int main(void) {
    static const int32_t windows[] = {-1, 0, 1, 2, 5, 64, 1000};
    static const int32_t tokens[] = {1, 6, 31, 156, N_VOCAB};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++) {
            test(windows[i], false, tokens[k], k);
            test(windows[i], true, tokens[k], k + 7);
        }
    }
    return check_result("history");
}
