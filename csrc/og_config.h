/* The configuration of a sampler: its parameters, and the tokens that they concern.
 *
 * og_sampler.h and og_dry.h define the effect of each parameter. The caller must keep the ranges;
 * nothing here checks them. All numbers are finite, except that a bias may be -infinity.
 */
#ifndef OG_CONFIG_H
#define OG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "og_dry.h"
#include "og_kernels.h"

enum {
    OG_MAX_VOCAB = INT32_MAX - 4095, /* logits of a row */
    OG_MAX_WINDOW = 1 << 24,         /* tokens; a larger window counts as everything */
    OG_FIRST_ROOM = 64               /* initial value of `room` */
};

typedef struct og_params {
    float temperature;       /* >= 0 */
    float dynatemp_range;    /* >= 0; 0 is off */
    float dynatemp_exponent; /* >= 0 */
    float top_n_sigma;       /* > 0; <= 0 is off */
    float typical_p;         /* 0..1; >= 1 is off */
    float top_p;             /* 0..1; >= 1 is off */
    float min_p;             /* 0..1; 0 is off */
    float xtc_probability;   /* 0..1; 0 is off */
    float xtc_threshold;     /* 0..1; > 0.5 is off */
    float mirostat_tau;      /* target surprise in bits, >= 0 */
    float mirostat_eta;      /* learning rate, >= 0 */
    float adaptive_target;   /* 0..1; < 0 is off */
    float adaptive_decay;    /* 0..0.99 */
    int32_t mirostat;        /* 0 (off), 1 or 2 */
    int32_t top_k;           /* <= 0 or >= n_vocab is off */
    int32_t min_keep;        /* >= 0 */
    int32_t min_tokens;      /* >= 0; end tokens are banned until that many are generated */
    int32_t repeat_last_n;   /* window of penalties.repetition in tokens; 0 is off, -1 = all */
    bool p_less;             /* drop tokens with p below the sum of the squares of all p */
    og_penalties penalties;
    og_dry_params dry;
} og_params;

/* A number that is added to the logit of a token. */
typedef struct og_bias {
    int32_t token;
    float bias; /* -infinity bans the token */
} og_bias;

/* The struct and its arrays belong to the caller; og_sampler_init copies what it needs. Token ids
 * are 0 .. n_vocab - 1. */
typedef struct og_config {
    int32_t n_vocab; /* 1 .. OG_MAX_VOCAB */
    int32_t room;    /* tokens that can be accepted before og_sampler_reserve is needed, >= 1 */
    og_params params;
    uint64_t seed;
    uint32_t choice;                /* each choice of a request has its own random stream */
    const og_kernels *kernels;      /* NULL: the fastest that can run here */
    const og_bias *biases;          /* n_biases; the last one for a token counts */
    const int32_t *ends;            /* n_ends end tokens */
    const int32_t *breakers;        /* DRY's breakers: their tokens, one breaker after the other */
    const int32_t *breaker_lengths; /* tokens of each of the n_breakers, >= 1 */
    int32_t n_biases;
    int32_t n_ends;
    int32_t n_breakers;
} og_config;

/* Set all fields: temperature 1, all other parameters off, seed 0, no tokens. */
void og_config_init(og_config *config, int32_t n_vocab);

/* Whether accepted tokens must be counted because some penalty is on. */
bool og_params_need_counts(const og_params *params);

/* Whether drawing needs the scratch's `row` (og_scratch_bytes). */
bool og_params_need_row(const og_params *params);

#endif
