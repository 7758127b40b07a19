/* og_stops and og_utf8 next to guard pages, against a scan of every place. */
#include "og_stops.h"
#include "og_utf8.h"

#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "guard.h"

enum { MAX_STOPS = 4, MAX_LENGTH = 5, MAX_DATA = 70 };

typedef struct stops {
    int32_t n;
    uint8_t bytes[MAX_STOPS * MAX_LENGTH];
    int32_t offset[MAX_STOPS + 1];
} stops;

static void fill_stops(stops *s, uint64_t *random) {
    s->n = random_below(random, MAX_STOPS + 1);
    s->offset[0] = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const int32_t length = 1 + random_below(random, MAX_LENGTH);
        s->offset[i + 1] = s->offset[i] + length;
        for (int32_t k = s->offset[i]; k < s->offset[i + 1]; k++) {
            s->bytes[k] = (uint8_t)('a' + random_below(random, 2));
        }
    }
}

/* The number of bytes at the end of data[0..n-1] that begin stop i or are all of it. */
static int32_t beginning(const stops *s, int32_t i, const uint8_t *data, int32_t n) {
    int32_t length = s->offset[i + 1] - s->offset[i];
    for (; length > 0; length--) {
        if (length > n) continue;
        if (memcmp(data + n - length, s->bytes + s->offset[i], (size_t)length) == 0) break;
    }
    return length;
}

/* The required result of feeding data[0..n-1]. */
static int32_t naive_feed(const stops *s, const uint8_t *data, int32_t n, int32_t *matched,
                          int32_t *held) {
    for (int32_t end = 0; end <= n; end++) {
        *matched = -1;
        *held = 0;
        int32_t longest = 0;
        for (int32_t i = 0; i < s->n; i++) {
            const int32_t length = beginning(s, i, data, end);
            if (length > *held) *held = length;
            if (length == s->offset[i + 1] - s->offset[i] && length > longest) {
                longest = length;
                *matched = i;
            }
        }
        if (*matched < 0) continue;
        *held = longest;
        return end;
    }
    return n;
}

static void test_stops(enum guard_side side, uint64_t *random) {
    stops s;
    fill_stops(&s, random);
    const int32_t n = random_below(random, MAX_DATA), total = s.offset[s.n];
    uint8_t data[MAX_DATA];
    for (int32_t i = 0; i < n; i++) data[i] = (uint8_t)('a' + random_below(random, 2));
    og_stops fed = {s.n, guard_copy(s.bytes, (size_t)total, side),
                    guard_copy(s.offset, (size_t)(s.n + 1) * sizeof(int32_t), side),
                    guard_take((size_t)total * sizeof(int32_t), side),
                    guard_take((size_t)s.n * sizeof(int32_t), side)};
    og_stops_init(&fed);
    int32_t expected_match, expected_held, matched = -1, held = 0, at = 0;
    const int32_t expected = naive_feed(&s, data, n, &expected_match, &expected_held);
    while (at < n && matched < 0) {
        const int32_t length = 1 + random_below(random, n - at);
        const uint8_t *piece = guard_copy(data + at, (size_t)length, side);
        at += (int32_t)og_stops_feed(&fed, piece, (size_t)length, &matched, &held);
        guard_give(piece);
    }
    CHECK(at == expected && matched == expected_match, "%d bytes, stop %d; not %d, %d", at, matched,
          expected, expected_match);
    CHECK(held == expected_held, "%d bytes held, not %d", held, expected_held);
    guard_give_all();
}

/* Whether some further bytes make data[0..n-1] one character (Unicode 15, table 3-7). */
static bool begins_character(const uint8_t *data, size_t n) {
    static const uint8_t rows[][3] = {/* first byte, lowest and highest second byte */
                                      {0xE0, 0xA0, 0xBF},
                                      {0xED, 0x80, 0x9F},
                                      {0xF0, 0x90, 0xBF},
                                      {0xF4, 0x80, 0x8F}};
    const uint8_t first = data[0];
    size_t length = 0;
    if (first >= 0xC2 && first <= 0xDF) length = 2;
    if (first >= 0xE0 && first <= 0xEF) length = 3;
    if (first >= 0xF0 && first <= 0xF4) length = 4;
    if (n >= length) return false;
    for (size_t i = 1; i < n; i++) {
        uint8_t low = 0x80, high = 0xBF;
        for (int row = 0; row < 4 && i == 1; row++) {
            if (rows[row][0] != first) continue;
            low = rows[row][1];
            high = rows[row][2];
        }
        if (data[i] < low || data[i] > high) return false;
    }
    return true;
}

/* All bytes at the relevant places. */
static void test_utf8(enum guard_side side) {
    static const uint8_t kinds[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0,
                                    0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED,
                                    0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF};
    enum { KINDS = sizeof kinds };
    uint8_t *data = guard_take(4, side);
    for (int code = 0; code < KINDS * KINDS * KINDS * KINDS; code++) {
        for (int i = 0, left = code; i < 4; i++, left /= KINDS) data[i] = kinds[left % KINDS];
        size_t expected = 0;
        for (size_t back = 1; back <= 3; back++) {
            if (begins_character(data + 4 - back, back)) expected = back;
        }
        CHECK(og_utf8_unfinished(data, 4) == expected, "%02x %02x %02x %02x", data[0], data[1],
              data[2], data[3]);
    }
    guard_give_all();
    for (size_t n = 0; n <= 4; n++) {
        for (int i = 0; i < KINDS; i++) {
            uint8_t *exact = guard_take(n, side);
            memset(exact, kinds[i], n);
            const size_t expected = n > 0 && begins_character(&kinds[i], 1);
            CHECK(og_utf8_unfinished(exact, n) == expected, "%zu times %02x", n, kinds[i]);
            guard_give(exact);
        }
    }
}

int main(void) {
    uint64_t random = 5;
    for (int i = 0; i < 20000; i++) test_stops(i % 2 ? GUARD_BEHIND : GUARD_BEFORE, &random);
    test_utf8(GUARD_BEHIND);
    test_utf8(GUARD_BEFORE);
    return check_result("text");
}
