/* A sampler with its memory, which has exactly the size required by the headers: guard pages catch
 * an access outside of it, and AddressSanitizer one outside any array in it (og_memory.h). */
#ifndef RIG_H
#define RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "og_sampler.h"

/* The source of the memory. */
typedef struct rig_memory {
    /* Aligned for floats; to OG_ALIGNMENT if bytes is a multiple of it. */
    void *(*take)(size_t bytes);
    void (*give)(void *memory);
} rig_memory;

extern const rig_memory rig_heap;

/* A configuration and a prompt. The arrays are only read, and only during rig_init. */
typedef struct rig_spec {
    og_config config; /* rig_init sets the kernels */
    const int32_t *prompt;
    int32_t n_prompt;
} rig_spec;

typedef struct rig {
    og_sampler sampler;
    og_scratch scratch;
    const rig_memory *memory;
    void *sampler_memory;
    void *scratch_memory;
} rig;

void rig_init(rig *r, const rig_spec *spec, const og_kernels *kernels, const rig_memory *memory);

/* og_sampler_accept, after og_sampler_reserve if the sampler is full. */
void rig_accept(rig *r, int32_t token);

void rig_free(rig *r);

/* The row as a draw uses it, computed token by token from the definitions in og_sampler.h and
 * og_dry.h. generated: the accepted tokens. O(n_vocab + tokens^2). */
void rig_adjusted(const rig_spec *spec, const float *row, const uint32_t *mask,
                  const int32_t *generated, int32_t n_generated, float *adjusted);

#endif
