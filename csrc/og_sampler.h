/* One token from one row of logits: the whole pipeline.
 *
 * Order and definitions (float32 rows, double sums):
 *   1. The row is read only. Log-probabilities are log-softmax of the row as it came.
 *   2. logit_bias is added; tokens outside the mask are at -infinity.
 *   3. Repetition penalty R on tokens in the window: l <= 0 ? l * R : l / R (Keskar et al. 2019,
 *      CTRL; as llama.cpp's llama_sampler_penalties). Then l - generated * frequency
 *      - (generated > 0) * presence (OpenAI API reference, chat completions).
 *   4. temperature; 0 is argmax, where the lowest id wins a tie.
 *   5. top_k, then top_p (Holtzman et al. 2020), then min_p (Nguyen et al. 2024), each on the
 *      tempered distribution that the ones before left. Ties go to the lowest id. top_p keeps the
 *      smallest set of most likely tokens whose mass reaches p, the crossing token included.
 *   6. One draw: the first token, in order of ids, at which the running sum of the kept weights
 *      exceeds u * their total; u comes from og_philox_uniform(seed, choice, position). Every
 *      successful call moves position by one, the greedy ones too.
 */
#ifndef OG_SAMPLER_H
#define OG_SAMPLER_H

#include <stdint.h>

#include "og_history.h"
#include "og_status.h"

typedef struct og_bias {
    int32_t token; /* 0 <= token < n_vocab */
    float value;   /* finite, or -infinity for never */
} og_bias;

typedef struct og_params {
    float temperature;        /* >= 0 */
    float top_p;              /* 0..1; >= 1 is off */
    float min_p;              /* 0..1; 0 is off */
    float frequency_penalty;  /* finite; 0 is off */
    float presence_penalty;   /* finite; 0 is off */
    float repetition_penalty; /* > 0; 1 is off */
    int32_t top_k;            /* <= 0 or >= n_vocab is off */
} og_params;

/* A sequence's sampler. Caller-owned, as is all memory it points to; one thread at a time. */
typedef struct og_sampler {
    int32_t n_vocab; /* >= 1 */
    og_params params;
    const og_bias *bias; /* n_bias entries */
    int32_t n_bias;
    og_history history;
    uint64_t seed;
    uint32_t choice;
    uint64_t position; /* tokens drawn so far */
    float *adjusted;   /* scratch, n_vocab */
    float *weights;    /* scratch, n_vocab */
} og_sampler;

typedef struct og_candidate {
    int32_t token;
    float logprob;
} og_candidate;

/* Draw a token.
 *
 * logits: n_vocab float32, never written to. mask: NULL, or (n_vocab + 31) / 32 words, bit
 * token % 32 of word token / 32 set where the token is allowed.
 * Returns OG_OK and sets *token, or OG_ERR_NAN, OG_ERR_INFINITE, OG_ERR_NO_CANDIDATE and changes
 * nothing but the scratch. O(n_vocab + seen tokens + n_bias). */
int og_sampler_draw(og_sampler *s, const float *logits, const uint32_t *mask, int32_t *token);

/* Log-probabilities of a row: log-softmax of the logits as they are.
 *
 * Sets *logprob to that of `token` and top[0..n_top-1] to the most likely tokens, best first, ties
 * lowest id first. 0 <= n_top <= n; -infinity where the logit is. The row has passed
 * og_sampler_draw, so it holds no NaN and a finite maximum. O(n * 1 + hits * n_top). */
void og_logprobs(const float *logits, int32_t n, int32_t token, float *logprob, og_candidate *top,
                 int32_t n_top);

#endif
