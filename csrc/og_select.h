/* Selection without sorting: where is the border between the kept and the dropped?
 *
 * Both functions answer with a cut: keep every value above `threshold`, and of those equal to it
 * the `n_ties` with the lowest index. Method: radix selection over the order-preserving bits of a
 * float, 11 + 11 + 10 bits. The first digit is counted over the whole row; only the bucket that
 * holds the border is looked at again. O(n) in every case, whatever the values.
 */
#ifndef OG_SELECT_H
#define OG_SELECT_H

#include <stdint.h>

typedef struct og_cut {
    uint32_t threshold; /* og_order_bits of the border value */
    int32_t n_ties;     /* how many equal to it are kept, at least 1 */
} og_cut;

/* The cut that keeps the k largest of n values. 1 <= k <= n; no NaN. */
og_cut og_select_count(const float *values, int32_t n, int32_t k);

/* The cut that keeps the smallest set of largest weights whose sum reaches `target`.
 * Weights are finite and >= 0; 0 < target; n >= 1. When rounding keeps the sum of all from reaching
 * the target, everything is kept. */
og_cut og_select_mass(const float *weights, int32_t n, double target);

/* Set the values that a cut drops to `dropped`. O(n). */
void og_cut_apply(og_cut cut, float *values, int32_t n, float dropped);

#endif
