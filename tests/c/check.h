/* Helpers of all C tests: CHECK, repeatable random numbers, and the kernels of this machine. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "og_kernels.h"

static int check_failures;

enum { CHECK_SHOWN = 20 }; /* failures that are printed; the rest are only counted */

#define CHECK(condition, ...)                                               \
    do {                                                                    \
        if (!(condition) && check_failures++ < CHECK_SHOWN) {               \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                   \
            fputc('\n', stderr);                                            \
        }                                                                   \
    } while (0)

/* The return value of main; prints how many checks failed. */
static inline int check_result(const char *what) {
    if (check_failures == 0) {
        printf("%s: passed\n", what);
        return 0;
    }
    fprintf(stderr, "%s: %d checks failed\n", what, check_failures);
    return 1;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline uint64_t random_bits(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* 0 <= result < below. */
static inline int32_t random_below(uint64_t *state, int32_t below) {
    return (int32_t)(random_bits(state) % (uint64_t)below);
}

/* -1 <= result < 1, a multiple of 2^-23. */
static inline float random_unit(uint64_t *state) {
    return (float)(random_bits(state) >> 40) * 0x1p-23f - 1.0f;
}

enum { MAX_ISAS = 5 };

/* The kernels that this machine can run, the scalar ones first. Returns their number. */
static inline int all_kernels(const og_kernels *found[MAX_ISAS]) {
    static const char *const names[MAX_ISAS] = {"scalar", "sse2", "avx2", "avx512", "neon"};
    int n = 0;
    for (int i = 0; i < MAX_ISAS; i++) {
        const og_kernels *kernels = og_kernels_named(names[i]);
        if (kernels != NULL) found[n++] = kernels;
    }
    return n;
}

/* The row lengths to test: all small ones, and those around the borders of blocks.
 * Returns their number; lengths may be NULL. */
static inline int test_lengths(int32_t *lengths) {
    static const int32_t borders[] = {512, 1024, 4096};
    int count = 0;
    for (int32_t n = 1; n <= 70; n++, count++) {
        if (lengths != NULL) lengths[count] = n;
    }
    for (int b = 0; b < 3; b++) {
        for (int32_t off = -17; off <= 17; off++, count++) {
            if (lengths != NULL) lengths[count] = borders[b] + off;
        }
    }
    return count;
}

enum { MAX_LENGTHS = 70 + 3 * 35 };

#endif
