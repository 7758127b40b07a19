/* The kernels: loops over a whole row, one table of them for every instruction set.
 *
 * All tables give the same bits. Rows are processed in blocks of OG_BLOCK values. Inside a block,
 * value i belongs to lane i % 16, whatever the width of a register, and a lane adds its values in
 * order; the 16 lanes are then added in double precision, lane + 8, + 4, + 2, + 1. Sums over blocks
 * are in double precision, in order. Thus a float never adds more than 32 values (relative error
 * below 2e-6, in practice 2e-7), and the inner loops contain no conversion to double, which would
 * double the time of a sum.
 *
 * "Padded" arrays belong to the library: they have room up to a multiple of 16 values, and the last
 * ones are zero. Rows of a caller are read up to their last value and no further.
 */
#ifndef OG_KERNELS_H
#define OG_KERNELS_H

#include <stdint.h>

#include "og_status.h"

enum {
    OG_LANES = 16,     /* sums of a block that are computed side by side */
    OG_BLOCK = 512,    /* values of a row that are summed together */
    OG_MASK_WORD = 32, /* tokens in a word of a mask */
    OG_SPARE = 128     /* entries after the capacity of a list, for bracket to overwrite: it checks
                          every 64 values whether a list is full, and writes more than it finds */
};

/* Blocks of a row of n values. */
static inline int32_t og_blocks(int32_t n) { return (n + (OG_BLOCK - 1)) / OG_BLOCK; }

/* n rounded up to whole lanes: the length of padded arrays. */
static inline int32_t og_padded(int32_t n) { return (n + (OG_LANES - 1)) / OG_LANES * OG_LANES; }

/* Tokens whose logits are changed: ascending ids and, for each, its bias and counts. */
typedef struct og_touched {
    const int32_t *token;     /* ascending, each once */
    const float *bias;        /* added first; -infinity bans */
    const int32_t *generated; /* occurrences in the answer */
    const int32_t *window;    /* occurrences in the repetition window */
    int32_t n;
} og_touched;

/* Logits that replace a row's own. */
typedef struct og_patch {
    const int32_t *token;    /* ascending */
    const float *logit;      /* of each token */
    const int32_t *in_block; /* number of tokens in each block of the row */
} og_patch;

typedef struct og_penalties {
    float repetition; /* > 0; 1 is off */
    float frequency;  /* 0 is off */
    float presence;   /* 0 is off */
} og_penalties;

typedef struct og_kernels {
    const char *name; /* "scalar", "sse2", "avx2", "avx512" or "neon" */

    /* Find the largest value of every block among the tokens that the mask allows (all without a
     * mask); -infinity if there is none. Returns OG_OK, or OG_ERR_NAN or OG_ERR_INFINITE
     * (+infinity) if any of the n values is such, allowed or not; block_max is then meaningless.
     * O(n). */
    enum og_status (*scan)(const float *row, const uint32_t *mask, int32_t n, float *block_max);

    /* Compute weights[i] = 2^((logits[i] - max) * scale), 0 if the mask does not allow i. Unless
     * `patch` is NULL, its logits replace the row's. No logit that the mask allows is above max. A
     * weight below 2^-126 becomes a number between 0 and 2^-126 in the same order; a weight below
     * 2^-127 becomes 0. block_sum: the sums of the blocks. weights is padded, and may be the logits
     * themselves. The relative error of a weight of at least 2^-126 is below 2e-7 + 1e-7 *
     * |exponent|. O(n). */
    void (*weigh)(const float *logits, const uint32_t *mask, int32_t n, float max, float scale,
                  const og_patch *patch, float *weights, double *block_sum);

    /* Return the sum of such weights without storing them. Unless moment is NULL, *moment is the
     * sum of each weight times its exponent (to base two): the entropy in bits is log2(sum) -
     * moment / sum. O(n). */
    double (*exp_sum)(const float *logits, int32_t n, float max, float scale, double *moment);

    /* Compute the sums of the blocks of a padded array, over values >= low only. Returns their
     * total. block_top: NULL, or upper bounds of the blocks' values; blocks whose bound is below
     * low are not read. O(n). */
    double (*sum)(const float *weights, int32_t n, float low, const float *block_top,
                  double *block_sum);

    /* Split a padded array: return the sum of the values >= high, and write values with low <= v <
     * high, in order, to values and places (both with room for capacity + OG_SPARE). *count is
     * their number; beyond capacity, the lists are useless. block_top as above. O(n). */
    double (*bracket)(const float *weights, int32_t n, float low, float high,
                      const float *block_top, float *values, int32_t *places, int32_t capacity,
                      int32_t *count);

    /* Compute adjusted[k], the logit of touched token k with bias and penalties: l + bias; if in
     * the window, l <= 0 ? l * repetition : l / repetition; if generated, l - (count * frequency +
     * presence). adjusted is padded. O(touched). */
    void (*penalise)(const float *row, const og_touched *touched, const og_penalties *penalties,
                     float *adjusted);
} og_kernels;

/* The fastest table that this processor (and its operating system) can run. */
const og_kernels *og_kernels_best(void);

/* A table by its name; NULL if it was not built or this processor cannot run it. */
const og_kernels *og_kernels_named(const char *name);

#endif
