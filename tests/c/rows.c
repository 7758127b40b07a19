#include "rows.h"

#include <float.h>
#include <math.h>

#include "check.h"

static float value_of(enum row_kind kind, uint64_t *random) {
    static const float extremes[] = {0.0f,      -0.0f,     FLT_MIN, -FLT_MIN,   FLT_MAX, -FLT_MAX,
                                     -INFINITY, 0x1p-149f, 1e30f,   -0x1p-149f, 88.0f,   -104.0f};
    const float unit = random_unit(random);
    switch (kind) {
    case ROW_PEAKED: return random_below(random, 200) == 0 ? 20.0f + unit : 4.0f * unit;
    case ROW_TIED: return (float)random_below(random, 4) * 0.5f;
    case ROW_HOLES: return random_below(random, 3) == 0 ? 10.0f * unit : -INFINITY;
    case ROW_ZEROS: return random_below(random, 3) ? -8.0f : 0.0f * unit;
    case ROW_EXTREME: return extremes[random_below(random, 12)];
    default: return 8.0f * unit;
    }
}

void fill_row(enum row_kind kind, uint64_t *random, float *row, int32_t n) {
    for (int32_t i = 0; i < n; i++) row[i] = value_of(kind, random);
    if (kind == ROW_HOLES || kind == ROW_EXTREME) row[random_below(random, n)] = 1.0f;
}

void fill_mask(uint64_t *random, uint32_t *mask, int32_t n, int density, int32_t always) {
    for (int32_t word = 0; word < (n + 31) / 32; word++) mask[word] = 0;
    for (int32_t i = 0; i < n; i++) {
        if (i == always || random_below(random, 8) < density) mask[i / 32] |= 1u << i % 32;
    }
}
