/* Arithmetic that gives the same bits everywhere: only +, -, *, / and integer operations, compiled
 * without contraction (-ffp-contract=off) and without -ffast-math. The C library's log and pow are
 * not used, because each system rounds them differently. */
#ifndef OG_MATH_H
#define OG_MATH_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "fast-math would change what is drawn: take it out of CFLAGS"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "intermediate results must be rounded to their type: with x87, use -msse2 -mfpmath=sse"
#endif
#if defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#define OG_LOG2_E 1.4426950408889634
#define OG_LN_2 0.6931471805599453

/* Map a float (not NaN) to an unsigned number of the same order. -0 and +0 map to one number, as
 * they are equal for `<`; otherwise a tie of the two might not go to the lowest id. */
static inline uint32_t og_order_bits(float value) {
    const float canonical = value + 0.0f; /* -0 + +0 = +0 */
    uint32_t bits;
    memcpy(&bits, &canonical, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Return the float for which og_order_bits gave these bits. */
static inline float og_from_order_bits(uint32_t bits) {
    const uint32_t raw = bits & 0x80000000u ? bits & 0x7FFFFFFFu : ~bits;
    float value;
    memcpy(&value, &raw, sizeof value);
    return value;
}

/* log2(x) of a normal x > 0; absolute error below 2e-13. x = m * 2^e with m in [1/sqrt2, sqrt2);
 * log2(m) = 2 / ln 2 * atanh(s), s = (m - 1) / (m + 1), |s| < 0.172, by its series up to s^17. */
static inline double og_log2(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t half_root = UINT64_C(0x3FE6A09E667F3BCD); /* 1 / sqrt 2 */
    const int64_t exponent = (int64_t)(bits - half_root) >> 52;
    bits -= (uint64_t)exponent << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    double series = 1.0 / 17.0;
    for (int k = 15; k > 0; k -= 2) series = series * square + 1.0 / k;
    return (double)exponent + 2.0 * OG_LOG2_E * s * series;
}

/* 2^x; relative error below 1e-13. 0 below -1022, infinity above 1023. x = n + f with |f| <= 1/2;
 * 2^f by the series of exp(f ln 2) up to the 13th power. */
static inline double og_exp2(double x) {
    if (!(x >= -1022.0)) return 0.0;
    if (x > 1023.0) return HUGE_VAL;
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    const double n = (x + shift) - shift;
    const double f = (x - n) * OG_LN_2;
    double p = 1.0;
    for (int k = 13; k > 0; k--) p = p * f / k + 1.0;
    const uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

#endif
