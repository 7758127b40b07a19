/* The kernels, written once over og_lanes.h. Included by the files in isa/, each compiled for its
 * own instruction set; KERNELS is the name of the table and KERNELS_NAME its text. */

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "og_kernels.h"
#include "og_lanes.h"
#include "og_math.h"

#if defined(_MSC_VER)
#include <intrin.h>
#endif

enum { REGISTERS = OG_LANES / WIDTH };

/* Loops over the registers of 16 lanes are unrolled; the arrays then live in registers. */
#define EACH(r) for (int r = 0; r < REGISTERS; r++)

/* The lanes of register r, of the 16 that begin at token i, that the mask allows. */
static inline vm allowed(const uint32_t *mask, int32_t i, int r) {
#if defined(OG_LANES_AVX512)
    /* Straight from memory to a mask register; a shifted word takes weigh 7 % longer. Words are
     * little-endian on this architecture. */
    (void)r;
    uint16_t bits;
    memcpy(&bits, (const char *)mask + (uint32_t)i / 8, sizeof bits);
    return bits;
#else
    /* Unsigned: a signed division by 32 takes four instructions. */
    const uint32_t at = (uint32_t)i;
    return vm_from_bits(mask[at / OG_MASK_WORD] >> (at % OG_MASK_WORD + (uint32_t)(r * WIDTH)));
#endif
}

static inline int32_t block_end(int32_t start, int32_t n) {
    return n - start < OG_BLOCK ? n : start + OG_BLOCK;
}

static inline double add_lanes(const vf *lanes) {
    float each[OG_LANES];
    double sums[OG_LANES];
    EACH(r) vf_store(each + r * WIDTH, lanes[r]);
    for (int i = 0; i < OG_LANES; i++) sums[i] = (double)each[i];
    for (int half = OG_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    }
    return sums[0];
}

static inline float max_lanes(const vf *lanes) {
    float each[OG_LANES];
    EACH(r) vf_store(each + r * WIDTH, lanes[r]);
    for (int half = OG_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            each[i] = each[i] > each[i + half] ? each[i] : each[i + half];
        }
    }
    return each[0] + 0.0f; /* which of -0 and +0 is left depends on the width of a register */
}

/* The last values of a row, filled up to whole lanes; never reads behind them. */
static inline void load_tail(const float *row, int32_t n, float filler, float *tail) {
    for (int i = 0; i < OG_LANES; i++) tail[i] = filler;
    memcpy(tail, row, (size_t)n * sizeof *row);
}

/* --- scan ----------------------------------------------------------------------------------- */

/* GROUPS of 16 lanes a turn: a maximum waits four cycles for the one before. */
enum { GROUPS = REGISTERS >= 4 ? 1 : 4 / REGISTERS };

/* Whether a value is NaN or +infinity; the one compare finds both. */
static inline int what_is_wrong(const float *row, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (row[i] != row[i]) return OG_ERR_NAN;
    }
    return OG_ERR_INFINITE;
}

static inline int scan_rows(const float *row, const uint32_t *mask, int32_t n, bool masked,
                            float *block_max) {
    const vf lowest = vf_set(-INFINITY), infinite = vf_set(INFINITY);
    uint32_t wrong = 0;
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        const int32_t end = block_end(start, n);
        vf best[GROUPS * REGISTERS];
        vm bad[REGISTERS];
        EACH(r) bad[r] = vm_from_bits(0);
        for (int k = 0; k < GROUPS * REGISTERS; k++) best[k] = lowest;
        int32_t i = start;
        for (; i + GROUPS * OG_LANES <= end; i += GROUPS * OG_LANES) {
            for (int g = 0; g < GROUPS; g++) {
                const int32_t at = i + g * OG_LANES;
                EACH(r) {
                    const vf v = vf_load(row + at + r * WIDTH);
                    vf *b = &best[g * REGISTERS + r];
                    bad[r] = vm_or(bad[r], vf_not_lt(v, infinite));
                    *b = masked ? vf_max_where(allowed(mask, at, r), v, *b)
                                : vf_max(v, *b);
                }
            }
        }
        for (; i < end; i += OG_LANES) {
            const int32_t left = end - i < OG_LANES ? end - i : OG_LANES;
            float tail[OG_LANES];
            load_tail(row + i, left, -INFINITY, tail);
            EACH(r) {
                const vf v = vf_load(tail + r * WIDTH);
                bad[r] = vm_or(bad[r], vf_not_lt(v, infinite));
                best[r] = masked ? vf_max_where(allowed(mask, i, r), v, best[r])
                                 : vf_max(v, best[r]);
            }
        }
        for (int k = REGISTERS; k < GROUPS * REGISTERS; k++) {
            best[k % REGISTERS] = vf_max(best[k], best[k % REGISTERS]);
        }
        EACH(r) wrong |= vm_bits(bad[r]);
        block_max[start / OG_BLOCK] = max_lanes(best);
    }
    return wrong ? what_is_wrong(row, n) : OG_OK;
}

static int scan(const float *row, const uint32_t *mask, int32_t n, float *block_max) {
    return mask != NULL ? scan_rows(row, mask, n, true, block_max)
                        : scan_rows(row, NULL, n, false, block_max);
}

/* --- exp ------------------------------------------------------------------------------------ */

/* 2^x for x <= 0 and its exponent. x = n + f with |f| <= 1/2 by adding and subtracting 1.5 * 2^23;
 * 2^f by a polynomial of degree 5, fitted for the smallest largest relative error (8e-8; 1.7e-7
 * with the rounding of its ten operations), whose constant term is 1. Below -127 the exponent is
 * -127, f is 0, and adding -127 to the exponent field of 1.0 gives +0. */
static inline vf exp2_lanes(vf v, vf max, vf scale, vf *exponent) {
    const vf shift = vf_set(12582912.0f);
    const vf x = vf_max(vf_mul(vf_sub(v, max), scale), vf_set(-127.0f));
    const vf t = vf_add(x, shift);
    const vf f = vf_sub(x, vf_sub(t, shift));
    vf p = vf_set(1.3274633092805743e-3f);
    p = vf_add(vf_mul(p, f), vf_set(9.671961888670921e-3f));
    p = vf_add(vf_mul(p, f), vf_set(5.5506784468889236e-2f));
    p = vf_add(vf_mul(p, f), vf_set(2.4022234976291656e-1f));
    p = vf_add(vf_mul(p, f), vf_set(6.931470632553101e-1f));
    p = vf_add(vf_mul(p, f), vf_set(1.0f));
    *exponent = x;
    return vf_exponent(p, t);
}

/* Add up a padded stretch of at most a block. */
static inline double sum_block(const float *weights, int32_t n, vf border) {
    vf lanes[REGISTERS];
    EACH(r) lanes[r] = vf_set(0.0f);
    for (int32_t i = 0; i < n; i += OG_LANES) {
        EACH(r) {
            const vf w = vf_load(weights + i + r * WIDTH);
            lanes[r] = vf_add(lanes[r], vf_keep(vf_ge(w, border), w));
        }
    }
    return add_lanes(lanes);
}

/* Whether the mask allows any of n tokens from `start`: nearly always the first word tells. */
static inline bool allows_any(const uint32_t *mask, int32_t start, int32_t n) {
    const uint32_t *words = mask + (uint32_t)start / OG_MASK_WORD;
    for (int32_t i = 0; i < n; i += OG_MASK_WORD) {
        if (words[(uint32_t)i / OG_MASK_WORD] != 0) return true;
    }
    return false;
}

/* Weigh a block of whole lanes that begins at token `start`. */
static inline double weigh_block(const float *logits, const uint32_t *mask, int32_t start,
                                 int32_t n, bool masked, vf max, vf scale, float *weights) {
    if (masked && !allows_any(mask, start, n)) {
        memset(weights, 0, (size_t)n * sizeof *weights);
        return 0.0;
    }
    vf lanes[REGISTERS], ignored;
    EACH(r) lanes[r] = vf_set(0.0f);
    for (int32_t i = 0; i < n; i += OG_LANES) {
        EACH(r) {
            vf w = exp2_lanes(vf_load(logits + i + r * WIDTH), max, scale, &ignored);
            if (masked) w = vf_keep(allowed(mask, start + i, r), w);
            vf_store(weights + i + r * WIDTH, w);
            lanes[r] = vf_add(lanes[r], w);
        }
    }
    return add_lanes(lanes);
}

/* Copy a block with its patch, filled up to whole lanes. *patched: the patch's tokens before it. */
static inline void copy_block(const float *logits, int32_t start, int32_t n, const og_patch *patch,
                              int32_t *patched, float *copy) {
    const int32_t length = block_end(start, n) - start;
    const int32_t here = patch != NULL ? patch->in_block[start / OG_BLOCK] : 0;
    if (here == 0 && length % OG_LANES == 0) return; /* the row itself will do */
    memcpy(copy, logits + start, (size_t)length * sizeof *copy);
    for (int32_t i = length; i < og_padded(length); i++) copy[i] = -INFINITY;
    /* Volatile keeps compilers from making this a scatter instruction, which takes twice as long. */
    const volatile int32_t *token = here > 0 ? patch->token + *patched : NULL;
    for (int32_t k = 0; k < here; k++) {
        copy[(uint32_t)token[k] % OG_BLOCK] = patch->logit[*patched + k];
    }
    *patched += here;
}

static inline void weigh_rows(const float *logits, const uint32_t *mask, int32_t n, bool masked,
                              float max, float scale, const og_patch *patch, float *weights,
                              double *block_sum) {
    const vf high = vf_set(max), factor = vf_set(scale);
    /* Copied one block ahead: a register's load has to wait for single stores into the same place. */
    float copies[2][OG_BLOCK];
    int32_t patched = 0;
    copy_block(logits, 0, n, patch, &patched, copies[0]);
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        const int32_t block = start / OG_BLOCK, length = block_end(start, n) - start;
        const int32_t padded = og_padded(length);
        const bool touched = patch != NULL && patch->in_block[block] > 0;
        if (length == OG_BLOCK && start + OG_BLOCK < n) {
            copy_block(logits, start + OG_BLOCK, n, patch, &patched, copies[(block + 1) & 1]);
        }
        const float *from = touched || padded > length ? copies[block & 1] : logits + start;
        block_sum[block] =
            weigh_block(from, mask, start, padded, masked, high, factor, weights + start);
    }
}

static void weigh(const float *logits, const uint32_t *mask, int32_t n, float max, float scale,
                  const og_patch *patch, float *weights, double *block_sum) {
    if (mask != NULL) {
        weigh_rows(logits, mask, n, true, max, scale, patch, weights, block_sum);
    } else {
        weigh_rows(logits, NULL, n, false, max, scale, patch, weights, block_sum);
    }
}

static inline double exp_sum_rows(const float *logits, int32_t n, float max, float scale,
                                  bool with_moment, double *moment) {
    const vf high = vf_set(max), factor = vf_set(scale);
    double total = 0.0, total_moment = 0.0;
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        const int32_t end = block_end(start, n);
        vf lanes[REGISTERS], moments[REGISTERS], x;
        EACH(r) lanes[r] = moments[r] = vf_set(0.0f);
        for (int32_t i = start; i < end; i += OG_LANES) {
            float tail[OG_LANES];
            const float *from = logits + i;
            if (end - i < OG_LANES) {
                load_tail(from, end - i, -INFINITY, tail);
                from = tail;
            }
            EACH(r) {
                const vf w = exp2_lanes(vf_load(from + r * WIDTH), high, factor, &x);
                lanes[r] = vf_add(lanes[r], w);
                if (with_moment) moments[r] = vf_add(moments[r], vf_mul(w, x));
            }
        }
        total += add_lanes(lanes);
        if (with_moment) total_moment += add_lanes(moments);
    }
    if (with_moment) *moment = total_moment;
    return total;
}

static double exp_sum(const float *logits, int32_t n, float max, float scale, double *moment) {
    return moment != NULL ? exp_sum_rows(logits, n, max, scale, true, moment)
                          : exp_sum_rows(logits, n, max, scale, false, NULL);
}

/* --- weights -------------------------------------------------------------------------------- */

static double sum(const float *weights, int32_t n, float low, const float *block_top,
                  double *block_sum) {
    const vf border = vf_set(low);
    double total = 0.0;
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        const int32_t block = start / OG_BLOCK;
        const bool empty = block_top != NULL && block_top[block] < low;
        block_sum[block] =
            empty ? 0.0 : sum_block(weights + start, block_end(start, n) - start, border);
        total += block_sum[block];
    }
    return total;
}

static inline int32_t lowest_bit(uint64_t bits) {
#if defined(_MSC_VER)
    unsigned long at;
    _BitScanForward64(&at, bits);
    return (int32_t)at;
#else
    return __builtin_ctzll(bits);
#endif
}

static inline int32_t count_bits(uint64_t bits) {
#if defined(__POPCNT__)
    return __builtin_popcountll(bits);
#else
    bits -= bits >> 1 & UINT64_C(0x5555555555555555);
    bits = (bits & UINT64_C(0x3333333333333333)) + (bits >> 2 & UINT64_C(0x3333333333333333));
    bits = (bits + (bits >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
    return (int32_t)((bits * UINT64_C(0x0101010101010101)) >> 56);
#endif
}

/* Append the places of the bits that are set, counted from `place`; writes up to 64 behind the last.
 * Six at a time without asking whether there are so many, as simdjson flattens its bits: how many are set
 * cannot be foreseen, and a branch that is taken wrongly every other time made the bracket of a flat
 * row five times slower. */
static inline int32_t append(uint64_t bits, int32_t place, int32_t *places, int32_t found) {
    enum { AT_ONCE = 6 };
    const int32_t count = count_bits(bits);
    int32_t *to = places + found;
    for (int32_t done = 0; done < count; done += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++) {
            /* The highest bit stands in for none, so that there is one. */
            *to++ = place + lowest_bit(bits | UINT64_C(1) << 63);
            bits &= bits - 1;
        }
    }
    return found + count;
}

static double bracket(const float *weights, int32_t n, float low, float high,
                      const float *block_top, float *values, int32_t *places, int32_t capacity,
                      int32_t *count) {
    enum { WORD = 64 };
    const vf floor = vf_set(low), ceiling = vf_set(high);
    double total = 0.0;
    int32_t found = 0;
    for (int32_t start = 0; start < n && found <= capacity; start += OG_BLOCK) {
        if (block_top != NULL && block_top[start / OG_BLOCK] < low) continue;
        const int32_t end = block_end(start, n), before = found;
        vf lanes[REGISTERS];
        EACH(r) lanes[r] = vf_set(0.0f);
        for (int32_t word = start; word < end && found <= capacity; word += WORD) {
            const int32_t word_end = end - word < WORD ? end : word + WORD;
            uint64_t bits = 0;
            for (int32_t i = word; i < word_end; i += OG_LANES) {
                EACH(r) {
                    const vf w = vf_load(weights + i + r * WIDTH);
                    const vm above = vf_ge(w, ceiling);
                    const vm inside = vm_and_not(vf_ge(w, floor), above);
                    lanes[r] = vf_add(lanes[r], vf_keep(above, w));
                    bits |= (uint64_t)vm_bits(inside) << (i - word + r * WIDTH);
                }
            }
            found = append(bits, word, places, found);
        }
        for (int32_t k = before; k < found; k++) values[k] = weights[places[k]];
        total += add_lanes(lanes);
    }
    *count = found;
    return total;
}

/* --- penalties ------------------------------------------------------------------------------ */

static void penalise(const float *row, const og_touched *touched, const og_penalties *penalties,
                     float *adjusted) {
    const vf zero = vf_set(0.0f), repetition = vf_set(penalties->repetition);
    const vf frequency = vf_set(penalties->frequency), presence = vf_set(penalties->presence);
    const bool repeats = penalties->repetition != 1.0f;
    for (int32_t k = 0; k < touched->n; k++) adjusted[k] = row[touched->token[k]];
    /* The arrays of touched tokens are padded, too. */
    for (int32_t k = 0; k < touched->n; k += WIDTH) {
        vf l = vf_add(vf_load(adjusted + k), vf_load(touched->bias + k));
        if (repeats) {
            const vf less = vf_select(vf_gt(l, zero), vf_div(l, repetition), vf_mul(l, repetition));
            const vm in_window = vf_gt(vf_from_ints(touched->window + k), zero);
            l = vf_select(in_window, less, l);
        }
        const vf count = vf_from_ints(touched->generated + k);
        const vf penalty = vf_add(vf_mul(count, frequency), presence);
        l = vf_select(vf_gt(count, zero), vf_sub(l, penalty), l);
        vf_store(adjusted + k, l);
    }
}

extern const og_kernels KERNELS;
const og_kernels KERNELS = {KERNELS_NAME, scan, weigh, exp_sum, sum, bracket, penalise};
