/* One token from one row of logits: the whole pipeline.
 *
 * Order and definitions. Rows are float32; sums are the kernels' (og_kernels.h), double over
 * blocks.
 *   1. The row is read only. Log-probabilities are log-softmax of the row as it came.
 *   2. logit_bias is added; tokens outside the mask are at -infinity.
 *   3. Repetition penalty R on tokens in the window: l <= 0 ? l * R : l / R (Keskar et al. 2019,
 *      CTRL; as llama.cpp's llama_sampler_penalties). Then l - (generated * frequency + presence)
 *      for generated tokens (OpenAI API reference, chat completions). Then DRY (og_dry.h). Tokens
 *      that end an answer are at -infinity until min_tokens are generated.
 *   4. temperature T; 0 (and what is less than FLT_MIN, 1.2e-38) is argmax, where the lowest id
 *      wins a tie, and nothing below acts. With dynatemp_range d > 0:
 *      T = low + (high - low) * (H / Hmax)^dynatemp_exponent between low = max(0, T - d) and
 *      high = T + d, H the entropy of the row so far, Hmax that of as many equal candidates
 *      (llama.cpp's llama_sampler_temp_ext).
 *   5. Truncation, each step on the tempered distribution that the ones before left; "mass" is a
 *      share of what they left. Ties (of logits in top_n_sigma and top_k, of weights as floats in
 *      the others) go to the lowest id. At least min_keep tokens stay in each step.
 *      top_n_sigma  keeps l >= max - n * standard deviation of the logits (Tang et al. 2024,
 *                   "Top-n-sigma")
 *      top_k        the k most likely
 *      typical_p    the smallest set whose mass exceeds p, of the tokens whose information is
 *                   nearest to the entropy (Meister et al. 2023, "Locally typical sampling")
 *      top_p        the smallest set of most likely tokens whose mass reaches p, the crossing token
 *                   included, never none (Holtzman et al. 2020)
 *      min_p        w >= min_p * the largest (Nguyen et al. 2024)
 *      p_less       w / total >= the sum of the squares of all w / total (Tan et al. 2025, "p-less
 *                   sampling", arXiv 2509.23234)
 *      xtc          with xtc_probability: of the tokens with mass >= xtc_threshold only the least
 *                   likely; not at all where fewer than min_keep would stay (p-e-w,
 *                   oobabooga/text-generation-webui #6335; as llama.cpp's llama_sampler_xtc)
 *      or, in the place of all of them, mirostat 1 or 2 (Basu et al. 2021), whose state mu follows
 *      the surprise of each drawn token.
 *   6. One draw: the first token, in order of ids, at which the running sum of the kept weights
 *      exceeds u * their total; u is og_philox_uniform(seed, choice, position, OG_STREAM_DRAW).
 *      With adaptive_target >= 0 other weights take the place of the kept ones (og_adaptive.h),
 *      but not with mirostat.
 *      Every successful call moves position by one, the greedy ones too.
 *
 * How it is fast (128,256 logits; the figures are in benchmarks/README.md): the row is read twice,
 * once for the maxima of its blocks and once for its weights. Bias and penalties never make a copy
 * of it: the few tokens they touch are worked out beside it and put into the weights afterwards.
 * The nucleus is cut by og_select_nucleus; on a peaked row every step after that looks at a short
 * list. Samplers that few people use take one plain copy of the row first, and stay simple.
 */
#ifndef OG_SAMPLER_H
#define OG_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_config.h"
#include "og_dry.h"
#include "og_history.h"
#include "og_kernels.h"
#include "og_memory.h"
#include "og_scratch.h"
#include "og_status.h"

/* Independent random streams of one position: part of what a seed promises. */
enum { OG_STREAM_DRAW = 0, OG_STREAM_XTC = 1 };

/* A sequence's sampler. The struct and its one block of memory are the caller's; one thread at a
 * time. The fields are for reading; `choice`, `seed` and `position` may be set between draws. */
typedef struct og_sampler {
    const og_kernels *kernels;
    int32_t n_vocab;
    og_params params;
    og_history history; /* biases, and the tokens counted if `counts` */
    og_dry dry;
    og_bias *ends; /* tokens that are banned in the history until min_tokens are accepted, and
                      their biases from then on */
    int32_t n_ends;
    bool counts;         /* whether accepted tokens have to be counted */
    int64_t n_generated; /* accepted so far */
    uint64_t seed;
    uint32_t choice;
    uint64_t position;    /* tokens drawn so far */
    double mu;            /* mirostat's state in bits; begins at 2 * tau */
    double adaptive_mean; /* adaptive-p's state; begins at adaptive_target */
} og_sampler;

typedef struct og_candidate {
    int32_t token;
    float logprob;
} og_candidate;

/* Bytes of the block that og_sampler_init lays out, a multiple of OG_ALIGNMENT. */
size_t og_sampler_bytes(const og_config *config);

/* Begin a sequence. memory: og_sampler_bytes(config) bytes, aligned to OG_ALIGNMENT; it outlives
 * the sampler. `config` and its arrays are not needed afterwards. The library never allocates.
 * O(blocks of a row + biases^2 + breakers), and O(breakers^2) where these do not ascend by their
 * first token. */
void og_sampler_init(og_sampler *s, const og_config *config, void *memory);

/* Whether one more token finds no room: then og_sampler_reserve comes first. O(1). */
bool og_sampler_is_full(const og_sampler *s);

/* Bytes of a block with room for `tokens` more; at least twice the room there is, if that is too
 * little, so that the work of many moves is amortised. tokens >= 1. */
size_t og_sampler_reserve_bytes(const og_sampler *s, int32_t tokens);

/* Move to a block of og_sampler_reserve_bytes(s, tokens) bytes, aligned to OG_ALIGNMENT. The old
 * one may then be freed. O(bytes). */
void og_sampler_reserve(og_sampler *s, int32_t tokens, void *memory);

/* How many tokens at the end of a prompt play a part: 0, a number, or -1 for all. */
int32_t og_sampler_lookback(const og_sampler *s);

/* Count a token of the prompt, before anything is accepted. 0 <= token < n_vocab; not full. */
void og_sampler_accept_prompt(og_sampler *s, int32_t token);

/* Draw a token.
 *
 * logits: n_vocab float32, never written to. mask: NULL, or (n_vocab + 31) / 32 words, bit
 * token % 32 of word token / 32 set where the token is allowed.
 * Returns OG_OK and sets *token, or OG_ERR_NAN, OG_ERR_INFINITE, OG_ERR_NO_CANDIDATE and changes
 * nothing but the scratch. O(n_vocab + seen tokens). */
enum og_status og_sampler_draw(og_sampler *s, og_scratch *scratch, const float *logits,
                               const uint32_t *mask, int32_t *token);

/* Count a drawn token as generated. 0 <= token < n_vocab; not full. */
void og_sampler_accept(og_sampler *s, int32_t token);

/* Log-probabilities of the row that was drawn from last with this scratch, which `logits` has to
 * be: log-softmax of the logits as they are.
 *
 * Sets *logprob to that of `token` and top[0..n_top-1] to the most likely tokens, best first, ties
 * lowest id first; -infinity where the logit is. 0 <= n_top <= n_vocab. One pass of exp, and the
 * blocks that hold the most likely tokens. */
void og_sampler_logprobs(const og_sampler *s, og_scratch *scratch, const float *logits,
                         int32_t token, float *logprob, og_candidate *top, int32_t n_top);

/* The same for a row that nothing is drawn from, such as a prompt's, and *rank: one more than the
 * number of tokens that are more likely. Uses the scratch of no draw that is still to be asked
 * about. Returns OG_OK, or OG_ERR_NAN, OG_ERR_INFINITE, or OG_ERR_NO_CANDIDATE where all logits are
 * -infinity. */
enum og_status og_sampler_score(const og_sampler *s, og_scratch *scratch, const float *logits,
                                int32_t token, float *logprob, int32_t *rank, og_candidate *top,
                                int32_t n_top);

/* og_sampler_logprobs of the distribution that the token was drawn from, after bias, penalties,
 * temperature and truncation, and of the token of the last draw alone. Where fewer than n_top were
 * candidates, the rest of `top` is filled with token -1. O(1) for n_top = 0, else O(candidates +
 * n_top^2). */
void og_scratch_logprobs(const og_scratch *scratch, int32_t token, float *logprob,
                         og_candidate *top, int32_t n_top);

#endif
