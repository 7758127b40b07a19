/* DRY, "don't repeat yourself": a penalty for the token that would continue a repetition.
 *
 * Source: p-e-w, "DRY: a modern repetition penalty", oobabooga/text-generation-webui #5677;
 * llama.cpp's llama_sampler_dry. Definition: let the last tokens (at most last_n) be t[0..m-1]. A
 * token that followed an earlier occurrence of the last L >= allowed_length tokens would extend
 * that repetition. Its logit is lowered, for the largest such L, by
 *     multiplier * base ^ (L - allowed_length).
 * Repetitions do not cross a sequence breaker (a token sequence such as ":" or a line end): L is
 * limited to the tokens after the last breaker (the one that starts last; if several start there,
 * the longest). Tokens that are a breaker by themselves are never penalised.
 *
 * This equals llama.cpp except for the largest penalty: where the power exceeds the range of
 * float32, the penalty is FLT_MAX here (the token stays possible), while llama.cpp limits the
 * exponent and may reach -infinity.
 */
#ifndef OG_DRY_H
#define OG_DRY_H

#include <stdbool.h>
#include <stdint.h>

#include "og_history.h"

typedef struct og_dry_params {
    float multiplier;       /* >= 0; 0 is off */
    float base;             /* >= 1 */
    int32_t allowed_length; /* >= 0 */
    int32_t last_n;         /* tokens searched; 0 is off, -1 = all */
} og_dry_params;

/* A token and the tokens after it, which together are a sequence breaker. */
typedef struct og_breaker {
    int32_t head;
    int32_t tail_begin; /* index into `tails` */
    int32_t tail_length;
} og_breaker;

/* The struct and the memory it points to belong to the caller. og_sampler_init sets it up. */
typedef struct og_dry {
    og_dry_params params;
    const og_breaker *breakers; /* ascending by head */
    const int32_t *tails;       /* n_tails */
    int32_t n_breakers;
    int32_t n_tails;
    int32_t *tokens;  /* the last tokens, oldest first */
    int32_t *repeats; /* scratch, as long as tokens */
    int32_t n;        /* tokens stored */
    int32_t capacity; /* at least 2 * last_n if last_n > 0 */
} og_dry;

/* Whether these parameters penalise anything. */
static inline bool og_dry_is_on(const og_dry_params *params) {
    return params->multiplier != 0.0f && params->last_n != 0;
}

/* Whether og_dry_add would have no room (only with last_n = -1). */
bool og_dry_is_full(const og_dry *d);

/* Append a token. d must not be full. Amortised O(1). */
void og_dry_add(og_dry *d, int32_t token);

/* Lower the adjusted logits of the tokens that would continue a repetition. Every token that was
 * added to d must be in h (h->keep). O(tokens searched, and the breakers that begin with them). */
void og_dry_apply(const og_dry *d, og_history *h);

#endif
