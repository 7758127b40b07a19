/* Selection without sorting: finds the border between the kept and the dropped values.
 *
 * All functions return a cut: keep every value above `border`, and of the values equal to it the
 * `ties` with the lowest indices.
 */
#ifndef OG_SELECT_H
#define OG_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "og_kernels.h"

typedef struct og_cut {
    float border;
    int32_t ties; /* how many values equal to the border are kept, at least 1 */
    bool more;    /* whether further equal values are not kept */
} og_cut;

/* --- in any row: radix selection -------------------------------------------------------------- */

/* Method: the order-preserving bits of a float, 11 + 11 + 10 of them at a time. The first digit is
 * counted over the whole row; only the bucket that contains the border is examined again. O(n) in
 * every case, whatever the values: 3 ns per value in most rows, 20 ns if nearly all are equal. */

/* The cut that keeps the k largest of n values. 1 <= k <= n; no NaN. */
og_cut og_select_count(const float *values, int32_t n, int32_t k);

/* The cut by `keys` that keeps the smallest set of largest keys whose masses reach `target`. Masses
 * are finite and >= 0; 0 < target; n >= 1. If the total does not reach the target because of
 * rounding, everything is kept. */
og_cut og_select_mass(const float *keys, const float *masses, int32_t n, double target);

/* --- in a distribution: selection guided by a sample ------------------------------------------ */

/* Scratch in memory that belongs to the caller. Each list has room for capacity + OG_SPARE. */
enum { OG_SAMPLE = 2048 };
typedef struct og_lists {
    float *values[3];   /* the first keeps its contents; the search continues in the others */
    int32_t *places[2]; /* of the first; and of the others, which are not needed */
    int32_t capacity;   /* at least 4096, or the length of the row if that is less */
    float *sample;      /* OG_SAMPLE */
    double *sums;       /* og_blocks of the row */
} og_lists;

typedef struct og_nucleus {
    og_cut cut;
    int32_t listed; /* >= 0: all kept values are among this many in the first list */
} og_nucleus;

/* The cut of the smallest set of largest weights whose sum reaches `goal`, 0 < goal < total.
 *
 * Method: selection by Floyd and Rivest ("Expected time bounds for selection", CACM 18, 1975), but
 * by mass. The dropped values have the mass total - goal and are small. Therefore a sample of the
 * row, spread over buckets and added up from below, gives an interval for the border (2.5 standard
 * deviations either way), even if a few tokens that the sample misses have most of the mass. One
 * pass adds up the values above the interval and lists those inside. The list is narrowed in the
 * same way until it is short enough for an exact search by buckets. The sums show whether the
 * interval missed the border; the search is then repeated, and finally replaced by the radix
 * selection, which cannot miss.
 *
 * Measured at 128,256 weights (AVX-512): one pass and 6 us, against 330 us for the radix selection
 * alone. If no value lies above the interval, the list contains all kept values, and later steps
 * read the list instead of the row.
 *
 * weights: n values, padded; block_top: as for kernels->sum, or NULL; total: their sum as returned
 * by kernels->sum. */
og_nucleus og_select_nucleus(const og_kernels *kernels, const float *weights, int32_t n,
                             const float *block_top, double total, double goal, og_lists *lists);

/* Write to the first list, in order of ids, at least the k largest values of a row: all values that
 * are not below a border, which the maxima of the blocks (or, for large k, a sample) give. Returns
 * their number, or -1 if they are fewer than k or more than the list holds; the caller must then
 * search the whole row. No NaN; 1 <= k <= n. O(n), mostly O(blocks). */
int32_t og_select_largest(const og_kernels *kernels, const float *row, int32_t n,
                          const float *block_max, int32_t k, og_lists *lists);

/* The k largest values of a row, best first. Returns k. Otherwise as og_select_largest; k <=
 * OG_SAMPLE. */
int32_t og_select_top(const og_kernels *kernels, const float *row, int32_t n,
                      const float *block_max, int32_t k, og_lists *lists, float *best);

#endif
