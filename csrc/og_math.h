/* Arithmetic that gives the same bits everywhere: only +, -, * and integer operations, compiled
 * without contraction (-ffp-contract=off) and without -ffast-math. */
#ifndef OG_MATH_H
#define OG_MATH_H

#include <stdint.h>
#include <string.h>

/* exp(x) for x <= 0, relative error below 2e-7; 0 for x < -87 and for -infinity.
 *
 * Definition: x = n ln 2 + r with |r| <= ln(2) / 2, exp(x) = 2^n P(r); P is the Taylor polynomial
 * of degree 7, whose error there (5e-9) is below half a unit in the last place. Rounding to n is
 * done by adding and subtracting 1.5 * 2^23. Branch-free, so that compilers vectorise its loops. */
static inline float og_expf(float x) {
    const float shift = 12582912.0f;
    const float clamped = x < -87.0f ? -87.0f : x;
    const float n = (clamped * 1.44269504f + shift) - shift;
    /* ln 2 in two parts: the first has so few bits that n * ln2_high is exact. */
    const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x < -87.0f ? 0.0f : p * scale;
}

/* Map a float (no NaN) to an unsigned number of the same order; -0 and +0 are one, as they are
 * for `<`: else a tie of the two would not go to the lowest id. */
static inline uint32_t og_order_bits(float value) {
    const float canonical = value + 0.0f; /* -0 + +0 = +0 */
    uint32_t bits;
    memcpy(&bits, &canonical, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

#endif
