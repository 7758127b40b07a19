/* Selection without sorting: where is the border between the kept and the dropped?
 *
 * All functions answer with a cut: keep every value above `border`, and of those equal to it the
 * `ties` with the lowest index.
 */
#ifndef OG_SELECT_H
#define OG_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "og_kernels.h"

typedef struct og_cut {
    float border;
    int32_t ties; /* how many equal to it are kept, at least 1 */
    bool more;    /* whether there are equal ones that are not kept */
} og_cut;

/* --- in any row: radix selection -------------------------------------------------------------- */

/* Method: the order-preserving bits of a float, 11 + 11 + 10 of them at a time. The first digit is
 * counted over the whole row; only the bucket that holds the border is looked at again. O(n) in
 * every case, whatever the values: 3 ns a value in most rows, 20 where nearly all of them are
 * equal. */

/* The cut that keeps the k largest of n values. 1 <= k <= n; no NaN. */
og_cut og_select_count(const float *values, int32_t n, int32_t k);

/* The cut by `keys` that keeps the smallest set of largest keys whose masses reach `target`.
 * Masses are finite and >= 0; 0 < target; n >= 1. When rounding keeps the sum of all from reaching
 * the target, everything is kept. */
og_cut og_select_mass(const float *keys, const float *masses, int32_t n, double target);

/* --- in a distribution: selection behind a sample --------------------------------------------- */

/* Scratch of caller-owned memory. Every list has room for capacity + OG_SPARE entries. */
enum { OG_SAMPLE = 2048 };
typedef struct og_lists {
    float *values[3];   /* the first stays as it was listed; the search goes on in the others */
    int32_t *places[2]; /* of the first; and of the others, which nobody reads */
    int32_t capacity;   /* at least 4096, or the length of the row if that is less */
    float *sample;      /* OG_SAMPLE */
    double *sums;       /* og_blocks of the row */
} og_lists;

typedef struct og_nucleus {
    og_cut cut;
    int32_t listed; /* >= 0: all kept values are among that many in the first list */
} og_nucleus;

/* The cut of the smallest set of largest weights whose sum reaches `goal`, 0 < goal < total.
 *
 * Method: as Floyd and Rivest select ("Expected time bounds for selection", CACM 18, 1975), but by
 * mass. What is dropped has the mass total - goal, and it is made of small weights; so a sorted
 * sample of the row tells, from below, between which two values the border lies (2.5 standard
 * deviations either way), however much mass a few tokens have that no sample meets. One pass adds
 * up what is above and lists what is between; the list is treated in the same way until it can be
 * sorted. A border that the sample missed is seen by the sums and looked for again; after that the
 * radix selection, which cannot miss.
 *
 * Measured at 128,256 weights (AVX-512): one pass and 6 us, against 330 us for the radix selection
 * alone. When nothing lies above the bracket, the list has all that is kept, and whatever follows
 * looks at the list instead of the row.
 *
 * weights: n values, padded; block_top: as for kernels->sum, or NULL; total: their sum as
 * kernels->sum gives it. */
og_nucleus og_select_nucleus(const og_kernels *kernels, const float *weights, int32_t n,
                             const float *block_top, double total, double goal, og_lists *lists);

/* List in the first list, in order of ids, at least the k largest values of a row: all that are not
 * less than a border which the maxima of the blocks (or, for large k, a sample) give. Returns how
 * many, or -1 when they are fewer than k or more than the list holds: the caller then takes the
 * slow way. No NaN; 1 <= k <= n. O(n), mostly O(blocks). */
int32_t og_select_largest(const og_kernels *kernels, const float *row, int32_t n,
                          const float *block_max, int32_t k, og_lists *lists);

/* The k largest values of a row, best first. Returns k. As og_select_largest; k <= OG_SAMPLE. */
int32_t og_select_top(const og_kernels *kernels, const float *row, int32_t n,
                      const float *block_max, int32_t k, og_lists *lists, float *best);

#endif
