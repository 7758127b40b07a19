/* What a sequence has seen, token by token: the input of the penalties.
 *
 * For every seen or biased token, in ascending order of ids: its bias, how often it was generated
 * (OpenAI's frequency and presence penalty) and how often it stands in the last `last_n` tokens of
 * prompt and answer (llama.cpp's repetition penalty). Only these tokens are touched in a step:
 * O(seen), not O(vocabulary).
 *
 * A sorted array and not a hash table: a step reads all of it and writes one place, so it is laid
 * out for the reading. The penalties then are vector loops, and the row's memory is visited in
 * order.
 */
#ifndef OG_HISTORY_H
#define OG_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_kernels.h"

typedef struct og_history {
    int32_t *token;     /* n of them, ascending; the arrays are padded with zeros */
    float *bias;        /* added to the logit; -infinity bans */
    int32_t *generated; /* occurrences in the answer */
    int32_t *window;    /* occurrences in the window */
    float *adjusted;    /* scratch of a step: logits with bias and penalties */
    float *weights;     /* scratch of a step */
    int32_t *in_block;  /* how many of the tokens fall into each block of a row */
    int32_t n;
    int32_t capacity; /* multiple of OG_LANES */
    int32_t *ring;    /* the last tokens, or NULL when last_n < 1 */
    int32_t last_n;   /* tokens in the window; 0 = none, -1 = all */
    int64_t n_tokens; /* tokens that passed the window so far */
    bool keep;        /* whether tokens stay when nothing counts them any more */
} og_history;

/* Bytes of memory for `capacity` tokens, a multiple of OG_LANES. */
size_t og_history_bytes(int32_t capacity);

/* Begin an empty history for rows of n_vocab. memory: og_history_bytes(capacity) bytes, aligned for
 * floats; in_block: og_blocks(n_vocab) entries; ring: last_n entries if last_n > 0. All are the
 * caller's and outlive the struct. O(capacity + blocks). */
void og_history_init(og_history *h, int32_t n_vocab, void *memory, int32_t capacity,
                     int32_t *in_block, int32_t *ring, int32_t last_n, bool keep);

/* Move to larger memory; the old may then be freed. capacity is not smaller than before. */
void og_history_grow(og_history *h, void *memory, int32_t capacity);

/* Whether the next new token would find no room. */
bool og_history_is_full(const og_history *h);

/* Set the bias of a token. Not full, token >= 0. O(n). */
void og_history_set_bias(og_history *h, int32_t token, float bias);

/* Count a token: in the window, and as generated if so. Not full, token >= 0.
 * O(log n), and O(n) for a new one or one that is forgotten. */
void og_history_add(og_history *h, int32_t token, bool generated);

/* The index of a token, or -1. O(log n). */
int32_t og_history_find(const og_history *h, int32_t token);

#endif
