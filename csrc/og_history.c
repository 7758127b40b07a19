#include "og_history.h"

#include <string.h>

/* Fibonacci hashing: the multiplier is 2^32 divided by the golden ratio. */
static uint32_t home_of(int32_t token, uint32_t mask) {
    const uint32_t mixed = (uint32_t)token * 2654435769u;
    return (mixed >> 7 ^ mixed) & mask;
}

static uint32_t find(const og_history *h, int32_t token) {
    uint32_t at = home_of(token, h->table_mask);
    while (h->table[at] >= 0 && h->seen[h->table[at]].token != token) at = (at + 1) & h->table_mask;
    return at;
}

static void clear_table(og_history *h, int32_t *table, uint32_t table_size) {
    h->table = table;
    h->table_mask = table_size - 1;
    memset(table, 0xFF, table_size * sizeof *table); /* all -1 */
}

void og_history_init(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                     uint32_t table_size, int32_t *ring, int32_t last_n) {
    h->seen = seen;
    h->n_seen = 0;
    h->capacity = capacity;
    clear_table(h, table, table_size);
    h->ring = ring;
    h->last_n = last_n;
    h->n_tokens = 0;
}

void og_history_grow(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                     uint32_t table_size) {
    memcpy(seen, h->seen, (size_t)h->n_seen * sizeof *seen);
    h->seen = seen;
    h->capacity = capacity;
    clear_table(h, table, table_size);
    for (int32_t i = 0; i < h->n_seen; i++) h->table[find(h, seen[i].token)] = i;
}

bool og_history_full(const og_history *h) { return h->n_seen >= h->capacity; }

void og_history_add(og_history *h, int32_t token, bool generated) {
    const uint32_t at = find(h, token);
    if (h->table[at] < 0) {
        const og_seen fresh = {token, 0, 0};
        h->table[at] = h->n_seen;
        h->seen[h->n_seen++] = fresh;
    }
    og_seen *record = &h->seen[h->table[at]];
    if (generated) record->generated++;
    if (h->last_n == 0) return;
    record->window++;
    if (h->last_n > 0) {
        int32_t *place = &h->ring[h->n_tokens % h->last_n];
        if (h->n_tokens >= h->last_n) h->seen[h->table[find(h, *place)]].window--;
        *place = token;
    }
    h->n_tokens++;
}
