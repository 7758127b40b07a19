/* og_math.h against the C library. */
#include "og_math.h"

#include <float.h>
#include <stdlib.h>

#include "check.h"

static void test_log2(uint64_t *random) {
    for (int i = 0; i < 1000000; i++) {
        /* Normal numbers of all exponents; every second one near 1, where log2 is small. */
        const double mantissa = 1.0 + (double)(random_bits(random) >> 12) * 0x1p-52;
        const double x = i % 2 ? ldexp(mantissa, random_below(random, 2046) - 1022)
                               : 1.0 + ((double)random_unit(random)) * 0x1p-4;
        CHECK(fabs(og_log2(x) - log2(x)) <= 1e-12, "x %.17g: %.17g", x, og_log2(x));
    }
    CHECK(og_log2(1.0) == 0.0, "%g", og_log2(1.0));
    CHECK(og_log2(DBL_MIN) == -1022.0, "%.17g", og_log2(DBL_MIN));
}

static void test_exp2(uint64_t *random) {
    for (int i = 0; i < 1000000; i++) {
        const double unit = (double)(random_bits(random) >> 11) * 0x1p-53;
        const double x = i % 2 ? -1022.0 + 2045.0 * unit : 4.0 * unit - 2.0;
        const double expected = exp2(x);
        CHECK(fabs(og_exp2(x) / expected - 1.0) <= 1e-12, "x %.17g: %.17g", x, og_exp2(x));
    }
    for (int n = -1022; n <= 1023; n++) CHECK(og_exp2(n) == ldexp(1.0, n), "n %d", n);
    CHECK(og_exp2(-1023.0) == 0.0 && og_exp2(-INFINITY) == 0.0 && og_exp2(NAN) == 0.0, "low");
    CHECK(og_exp2(1024.0) == HUGE_VAL && og_exp2(INFINITY) == HUGE_VAL, "high");
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_order(uint64_t *random) {
    float before = -INFINITY;
    uint32_t before_bits = og_order_bits(before);
    /* Ascend through the negative floats and then the positive ones, in steps that are not a power
     * of two and small enough to reach every exponent often. */
    for (uint64_t at = 0; at < UINT64_C(0xFF000000); at += 977) {
        const uint32_t raw =
            at < 0x7F800000u ? (0xFF800000u - (uint32_t)at) : (uint32_t)at - 0x7F800000u;
        const float value = from_bits(raw);
        if (value != value) continue;
        const uint32_t bits = og_order_bits(value);
        CHECK(
            (value > before) == (bits > before_bits) && (value == before) == (bits == before_bits),
            "%a after %a", (double)value, (double)before);
        CHECK(og_from_order_bits(bits) == value, "%a", (double)value);
        before = value;
        before_bits = bits;
    }
    for (int i = 0; i < 1000000; i++) {
        const float a = from_bits((uint32_t)random_bits(random));
        const float b = from_bits((uint32_t)random_bits(random));
        if (a != a || b != b) continue;
        CHECK((a < b) == (og_order_bits(a) < og_order_bits(b)), "%a %a", (double)a, (double)b);
    }
    CHECK(og_order_bits(-0.0f) == og_order_bits(0.0f), "zeros");
    CHECK(og_from_order_bits(og_order_bits(-INFINITY)) == -INFINITY, "-infinity");
    CHECK(og_from_order_bits(og_order_bits(INFINITY)) == INFINITY, "infinity");
}

int main(void) {
    uint64_t random = 2;
    test_log2(&random);
    test_exp2(&random);
    test_order(&random);
    return check_result("math");
}
