#include "og_utf8.h"

#include <stdbool.h>

/* Length of the character that a lead byte begins, 0 if it begins no multi-byte character. */
static size_t sequence_length(uint8_t lead) {
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    if (lead >= 0xF0 && lead <= 0xF4) return 4;
    return 0;
}

/* Whether `second` may follow `lead` (no overlong forms, surrogates or values past U+10FFFF). */
static bool second_byte_fits(uint8_t lead, uint8_t second) {
    const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high;
}

size_t og_utf8_unfinished(const uint8_t *data, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const uint8_t byte = data[n - back];
        if ((byte & 0xC0) == 0x80) continue; /* a continuation byte: its lead is further left */
        if (sequence_length(byte) <= back) return 0;
        if (back >= 2 && !second_byte_fits(byte, data[n - back + 1])) return 0;
        return back;
    }
    return 0;
}
