/* Which tokens a sequence has seen, and how often: the input of the penalties.
 *
 * Two counts per token: `generated`, all tokens drawn so far (OpenAI's frequency and presence
 * penalty), and `window`, occurrences among the last `last_n` tokens of prompt and answer
 * (llama.cpp's repetition penalty). Only seen tokens are stored, in an open-addressing hash table
 * with linear probing, so a step costs O(seen tokens), not O(vocabulary).
 */
#ifndef OG_HISTORY_H
#define OG_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct og_seen {
    int32_t token;
    int32_t generated;
    int32_t window;
} og_seen;

/* All memory is the caller's and outlives the struct. */
typedef struct og_history {
    og_seen *seen;      /* the tokens, in order of first sight */
    int32_t n_seen;     /* how many */
    int32_t capacity;   /* room in `seen` */
    int32_t *table;     /* hash table of indices into `seen`, -1 = free */
    uint32_t table_mask; /* its size - 1; the size is a power of two, at least 2 * capacity */
    int32_t *ring;      /* the last tokens, or NULL when last_n < 1 */
    int32_t last_n;     /* tokens in the window; 0 = none, -1 = all */
    int64_t n_tokens;   /* tokens that passed the window so far */
} og_history;

/* Begin an empty history in caller-owned memory: `capacity` records, `table_size` (a power of two,
 * >= 2 * capacity) table entries, and `last_n` ring entries if last_n > 0. O(table_size). */
void og_history_init(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                     uint32_t table_size, int32_t *ring, int32_t last_n);

/* Move to larger caller-owned memory; the old `seen` is copied, the old arrays may then be freed.
 * Same rules as og_history_init; capacity must not be smaller. O(table_size). */
void og_history_grow(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                     uint32_t table_size);

/* Whether one more new token would find no room. */
bool og_history_full(const og_history *h);

/* Count a token: in the window, and as generated if so. Expected O(1).
 * The history must not be full and token must be >= 0. */
void og_history_add(og_history *h, int32_t token, bool generated);

#endif
