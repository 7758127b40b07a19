/* A sampler and all memory it needs, set up as the Python layer sets it up. Every array is an
 * allocation of its own and has exactly the size that the headers ask for, so that guard pages and
 * AddressSanitizer see each access outside. */
#ifndef RIG_H
#define RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_sampler.h"

/* Where the memory comes from. */
typedef struct rig_memory {
    void *(*take)(size_t bytes); /* aligned for floats; to 64 bytes if bytes is a multiple of it */
    void (*give)(void *memory);
} rig_memory;

extern const rig_memory rig_heap;

/* What the sampler is to be. The arrays are only read, and during rig_init only. */
typedef struct rig_spec {
    int32_t n_vocab;
    og_params params;
    int32_t repeat_last_n;
    const og_end *biases; /* each token once */
    int32_t n_biases;
    const og_end *ends;   /* each token once; their bias is ignored and taken from `biases` */
    int32_t n_ends;
    int64_t min_tokens;
    float dry_multiplier;
    float dry_base;
    int32_t dry_allowed_length;
    int32_t dry_last_n;
    const og_breaker *breakers;
    int32_t n_breakers;
    const int32_t *tails;
    int32_t n_tails;
    const int32_t *prompt;
    int32_t n_prompt;
    uint64_t seed;
    uint32_t choice;
} rig_spec;

typedef struct rig {
    og_sampler sampler;
    og_scratch scratch;
    const rig_memory *memory;
    void *history_memory;
    void *scratch_memory;
    og_end *ends;
    og_breaker *breakers;
    int32_t *tails;
} rig;

void rig_init(rig *r, const rig_spec *spec, const og_kernels *kernels, const rig_memory *memory);

/* og_sampler_accept behind growing what is full. */
void rig_accept(rig *r, int32_t token);

void rig_free(rig *r);

/* The row as a draw sees it, worked out token by token from the definitions in og_sampler.h and
 * og_dry.h. prompt and generated: what the sampler has seen. O(n_vocab + tokens^2). */
void rig_adjusted(const rig_spec *spec, const float *row, const uint32_t *mask,
                  const int32_t *generated, int32_t n_generated, float *adjusted);

#endif
