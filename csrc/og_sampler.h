/* Samples one token from one row of logits: the whole pipeline.
 *
 * Order and definitions. Rows are float32; sums are those of the kernels (og_kernels.h), in double
 * precision over blocks.
 *   1. The row is only read. Log-probabilities are the log-softmax of the original row.
 *   2. logit_bias is added; tokens outside the mask become -infinity.
 *   3. Repetition penalty R on tokens in the window: l <= 0 ? l * R : l / R (Keskar et al. 2019,
 *      CTRL; as llama.cpp's llama_sampler_penalties). Then l - (generated * frequency + presence)
 *      for generated tokens (OpenAI API reference, chat completions). Then DRY (og_dry.h). End
 *      tokens are -infinity until min_tokens are generated.
 *   4. temperature T; 0 (and any T below FLT_MIN, 1.2e-38) is argmax, where the lowest id wins a
 *      tie, and steps 5 and 6 have no effect. With dynatemp_range d > 0:
 *      T = low + (high - low) * (H / Hmax)^dynatemp_exponent between low = max(0, T - d) and
 *      high = T + d. H is the entropy of the row so far, Hmax the entropy of as many equally likely
 *      candidates (llama.cpp's llama_sampler_temp_ext).
 *   5. Truncation: each step works on the tempered distribution that the previous steps left;
 *      "mass" is a share of it. Ties (of logits in top_n_sigma and top_k, of weights as floats in
 *      the others) go to the lowest id. Each step keeps at least min_keep tokens.
 *      top_n_sigma  keeps l >= max - n * standard deviation of the logits (Tang et al. 2024,
 *                   "Top-n-sigma")
 *      top_k        keeps the k most likely
 *      typical_p    keeps the smallest set whose mass exceeds p, of the tokens whose information is
 *                   nearest to the entropy (Meister et al. 2023, "Locally typical sampling")
 *      top_p        keeps the smallest set of most likely tokens whose mass reaches p, crossing
 *                   token included, never none (Holtzman et al. 2020)
 *      min_p        keeps w >= min_p * the largest (Nguyen et al. 2024)
 *      p_less       keeps w / total >= the sum of the squares of all w / total (Tan et al. 2025,
 *                   "p-less sampling", arXiv 2509.23234)
 *      xtc          with xtc_probability: of the tokens with mass >= xtc_threshold keeps only the
 *                   least likely; no effect if fewer than min_keep would stay (p-e-w,
 *                   oobabooga/text-generation-webui #6335; as llama.cpp's llama_sampler_xtc)
 *      Mirostat 1 or 2 (Basu et al. 2021) replaces all of these steps. Its state mu follows the
 *      surprise of each sampled token.
 *   6. One draw: the first token, in order of ids, at which the running sum of the kept weights
 *      exceeds u * their total; u is og_sampler_uniform(s, OG_STREAM_DRAW).
 *      With adaptive_target >= 0 and without mirostat, other weights replace the kept ones
 *      (og_adaptive.h).
 *      Every successful call increases position by one, greedy ones too.
 *
 * Why it is fast (128,256 logits; the figures are in benchmarks/README.md): the row is read twice,
 * once for the maxima of its blocks and once for its weights. Bias and penalties never copy the
 * whole row: the logits of the few touched tokens are computed separately and patched into copies
 * of their blocks when the row is weighed. og_select_nucleus finds the nucleus; on a peaked row
 * every later step reads only a short list. Rarely used parameters first make a plain copy of the
 * row, which keeps their code simple.
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

/* Independent random streams of one position; they are part of what a seed guarantees. Each rewind
 * begins new ones: a token that is sampled again must not depend on the number that led to the text
 * which was taken back. */
enum { OG_STREAM_DRAW = 0, OG_STREAM_XTC = 1, OG_STREAMS = 2 };

/* A sequence's sampler. The struct and its one block of memory belong to the caller; only one
 * thread may use it at a time. Fields are read-only, except that `choice`, `seed`, `position`,
 * `rewinds`, `mu` and `adaptive_mean` may be set between draws. */
typedef struct og_sampler {
    const og_kernels *kernels;
    int32_t n_vocab;
    og_params params;
    og_history history; /* biases, and the tokens counted if `counts` */
    og_dry dry;
    og_bias *ends; /* end tokens, which are banned in the history until min_tokens are accepted,
                      with the biases that they have from then on */
    int32_t n_ends;
    bool counts;         /* whether accepted tokens must be counted */
    int64_t n_generated; /* accepted so far */
    uint64_t seed;
    uint32_t choice;
    uint64_t position;    /* tokens sampled so far */
    uint32_t rewinds;     /* how often tokens were taken back */
    double mu;            /* mirostat's state in bits; begins at 2 * tau */
    double adaptive_mean; /* adaptive-p's state; begins at adaptive_target */
} og_sampler;

typedef struct og_candidate {
    int32_t token;
    float logprob;
} og_candidate;

/* Bytes of the block that og_sampler_init lays out, a multiple of OG_ALIGNMENT. */
size_t og_sampler_bytes(const og_config *config);

/* Begin a sequence. memory: og_sampler_bytes(config) bytes, aligned to OG_ALIGNMENT, which must
 * outlive the sampler. `config` and its arrays are not needed afterwards. The library never
 * allocates. O(blocks of a row + biases^2 + breakers), and O(breakers^2) if they do not ascend by
 * their first token. */
void og_sampler_init(og_sampler *s, const og_config *config, void *memory);

/* Whether there is no room for another token: call og_sampler_reserve first. O(1). */
bool og_sampler_is_full(const og_sampler *s);

/* Bytes of a block with room for `tokens` more; if the present room is too little, at least twice
 * that, so that the cost of moves is amortised. tokens >= 1. */
size_t og_sampler_reserve_bytes(const og_sampler *s, int32_t tokens);

/* Move to a block of og_sampler_reserve_bytes(s, tokens) bytes, aligned to OG_ALIGNMENT. The old
 * block may then be freed. O(bytes). */
void og_sampler_reserve(og_sampler *s, int32_t tokens, void *memory);

/* How many tokens at the end of a prompt have an effect: 0, a number, or -1 for all. */
int32_t og_sampler_lookback(const og_sampler *s);

/* Count a token of the prompt, before any og_sampler_accept. 0 <= token < n_vocab; not full. */
void og_sampler_accept_prompt(og_sampler *s, int32_t token);

/* Sample a token.
 *
 * logits: n_vocab float32, never written to. mask: NULL, or (n_vocab + 31) / 32 words, in which bit
 * token % 32 of word token / 32 is set if the token is allowed.
 * Returns OG_OK and sets *token, or OG_ERR_NAN, OG_ERR_INFINITE or OG_ERR_NO_CANDIDATE and changes
 * only the scratch. O(n_vocab + seen tokens). */
enum og_status og_sampler_draw(og_sampler *s, og_scratch *scratch, const float *logits,
                               const uint32_t *mask, int32_t *token);

/* Set tokens[0..n-1] to those that og_sampler_draw would draw from a row at this position and the
 * following ones, if everything else stayed as it is now. Changes only the scratch. Returns as
 * og_sampler_draw. O(n_vocab + seen tokens + n * blocks of a row). */
enum og_status og_sampler_draws(og_sampler *s, og_scratch *scratch, const float *logits,
                                const uint32_t *mask, int32_t n, int32_t *tokens);

/* Do what og_sampler_draw would do to the sampler if it drew `token`: for tokens that were drawn
 * elsewhere. A token that it could not draw moves nothing but the position. 0 <= token < n_vocab.
 * Overwrites the scratch. Returns and costs as og_sampler_draw. */
enum og_status og_sampler_follow(og_sampler *s, og_scratch *scratch, const float *logits,
                                 const uint32_t *mask, int32_t token);

/* Set probabilities[0..n_vocab-1] to the probability with which og_sampler_draw would draw each
 * token now: that of a removed token is 0, and that of a greedy draw's token 1. *temperature: the
 * one in force, as dynatemp_range moved it; 0 if the draw is greedy. XTC acts as it would in this
 * draw. Changes only the scratch, so query the last draw first. Returns as og_sampler_draw.
 * O(n_vocab + seen tokens). */
enum og_status og_sampler_distribution(og_sampler *s, og_scratch *scratch, const float *logits,
                                       const uint32_t *mask, double *probabilities,
                                       float *temperature);

/* Count a sampled token as generated. 0 <= token < n_vocab; not full. */
void og_sampler_accept(og_sampler *s, int32_t token);

/* Forget all counted tokens, those of the prompt too, so that others can be counted: the sampler is
 * as after og_sampler_init, except for `position`, `rewinds`, `mu` and `adaptive_mean`. O(seen
 * tokens + end tokens * biases). */
void og_sampler_restart(og_sampler *s);

/* The random number in [0, 1) of a stream at the current position: og_philox_uniform(seed, choice,
 * position, stream + OG_STREAMS * rewinds). */
double og_sampler_uniform(const og_sampler *s, uint32_t stream);

/* Log-probabilities of the row that was last used with this scratch, which `logits` must be:
 * log-softmax of the original logits.
 *
 * Sets *logprob to that of `token` and top[0..n_top-1] to the most likely tokens, best first, ties
 * lowest id first; -infinity where the logit is. 0 <= n_top <= n_vocab. Takes one pass of exp, and
 * reads the blocks that contain the most likely tokens. */
void og_sampler_logprobs(const og_sampler *s, og_scratch *scratch, const float *logits,
                         int32_t token, float *logprob, og_candidate *top, int32_t n_top);

/* The same for a row that is not sampled from, such as a prompt's, and *rank: one more than the
 * number of more likely tokens. This overwrites the scratch, so query the last draw first. Returns
 * OG_OK, OG_ERR_NAN, OG_ERR_INFINITE, or OG_ERR_NO_CANDIDATE if all logits are -infinity. */
enum og_status og_sampler_score(const og_sampler *s, og_scratch *scratch, const float *logits,
                                int32_t token, float *logprob, int32_t *rank, og_candidate *top,
                                int32_t n_top);

/* As og_sampler_logprobs, but for the distribution of the last draw, after bias, penalties,
 * temperature and truncation, and only for the token that it sampled. If there were fewer than
 * n_top candidates, the rest of `top` is filled with token -1. O(1) for n_top = 0, else
 * O(candidates + n_top^2). */
void og_scratch_logprobs(const og_scratch *scratch, int32_t token, float *logprob,
                         og_candidate *top, int32_t n_top);

#endif
