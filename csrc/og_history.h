/* The tokens of a sequence, counted for the penalties.
 *
 * For every seen or biased token, in ascending order of ids: its bias, how often it was generated
 * (OpenAI's frequency and presence penalty) and how often it occurs in the last `last_n` tokens of
 * prompt and answer (llama.cpp's repetition penalty). A step reads only these tokens: O(seen), not
 * O(vocabulary).
 *
 * The tokens are in a sorted array, not in a hash table, because a step reads all of them and
 * writes one place. Thus the penalties are vector loops, and the row's memory is read in order.
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
    int32_t *in_block;  /* number of the tokens in each block of a row */
    int32_t n;
    int32_t capacity; /* multiple of OG_LANES */
    int32_t *ring;    /* the last tokens, or NULL when last_n < 1 */
    int32_t last_n;   /* tokens in the window; 0 = none, -1 = all */
    int64_t n_tokens; /* tokens that have entered the window so far */
    bool keep;        /* whether to keep tokens that no longer have a count or bias */
} og_history;

/* Bytes of memory for `capacity` tokens, a multiple of OG_LANES. */
size_t og_history_bytes(int32_t capacity);

/* Begin an empty history for rows of n_vocab. memory: og_history_bytes(capacity) bytes, aligned for
 * floats; in_block: og_blocks(n_vocab) entries; ring: last_n entries if last_n > 0. All belong to
 * the caller and must outlive the struct. O(capacity + blocks). */
void og_history_init(og_history *h, int32_t n_vocab, void *memory, int32_t capacity,
                     int32_t *in_block, int32_t *ring, int32_t last_n, bool keep);

/* Move to larger memory; the old memory may then be freed. capacity must not decrease. */
void og_history_grow(og_history *h, void *memory, int32_t capacity);

/* Whether there is no room for another new token. */
bool og_history_is_full(const og_history *h);

/* Forget all counted tokens; biases stay. O(n). */
void og_history_restart(og_history *h);

/* Set the bias of a token. h must not be full; token >= 0. O(n). */
void og_history_set_bias(og_history *h, int32_t token, float bias);

/* Count a token in the window, and as generated if `generated`. h must not be full; token >= 0.
 * O(log n), but O(n) if a token is new or is removed. */
void og_history_add(og_history *h, int32_t token, bool generated);

/* The index of a token, or -1. O(log n). */
int32_t og_history_find(const og_history *h, int32_t token);

#endif
