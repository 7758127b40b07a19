/* og_find next to guard pages, against a search for every text at every place. */
#include "og_find.h"

#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "guard.h"

enum { MAX_TEXTS = 6, MAX_CHARS = 5, MAX_TEXT = 2 * MAX_CHARS, MAX_DATA = 80 };

typedef struct texts {
    int32_t n, total, longest;
    uint8_t bytes[MAX_TEXTS * (MAX_TEXT + 1)];
    int32_t offset[MAX_TEXTS], length[MAX_TEXTS];
} texts;

/* Characters of one byte and of two, so that places differ. */
static int32_t fill(uint8_t *bytes, int32_t n_chars, int32_t kinds, uint64_t *random) {
    static const char *const chars[4] = {"a", "b", "\xC3\xA9", "\xC3\xA8"};
    int32_t n = 0;
    for (int32_t i = 0; i < n_chars; i++) {
        const char *c = chars[random_below(random, kinds)];
        memcpy(bytes + n, c, strlen(c));
        n += (int32_t)strlen(c);
    }
    return n;
}

static bool has(const texts *t, const uint8_t *text, int32_t length) {
    for (int32_t i = 0; i < t->n; i++) {
        if (t->length[i] == length && memcmp(t->bytes + t->offset[i], text, (size_t)length) == 0) {
            return true;
        }
    }
    return false;
}

static void fill_texts(texts *t, int32_t kinds, uint64_t *random) {
    memset(t, 0, sizeof *t);
    for (int32_t tries = random_below(random, MAX_TEXTS + 1); tries > 0; tries--) {
        uint8_t text[MAX_TEXT];
        const int32_t n = fill(text, 1 + random_below(random, MAX_CHARS), kinds, random);
        if (has(t, text, n)) continue;
        t->offset[t->n] = t->total;
        t->length[t->n] = n;
        memcpy(t->bytes + t->total, text, (size_t)n);
        t->bytes[t->total + n] = OG_FIND_END;
        t->total += n + 1;
        if (n > t->longest) t->longest = n;
        t->n++;
    }
}

/* Builds a trie in guarded memory. */
static void build_trie(og_trie *trie, const texts *t, const uint8_t *bytes, enum guard_side side) {
    int32_t *order = guard_take((size_t)t->n * sizeof *order, side);
    for (int32_t i = 0; i < t->n; i++) order[i] = t->offset[i];
    og_find_sort(bytes, order, t->n);
    const int32_t nodes = og_trie_nodes(bytes, order, t->n);
    CHECK(nodes >= 1 && nodes <= t->total + 1, "%d nodes of %d bytes", nodes, t->total);
    og_trie_init(trie, guard_take(og_trie_bytes(nodes), side), nodes, bytes, order, t->n);
    CHECK(trie->child[nodes] == nodes, "%d of %d nodes", trie->child[nodes], nodes);
}

static void build(og_find *f, const texts *t, enum guard_side side) {
    uint8_t turned[sizeof t->bytes];
    for (int32_t i = 0; i < t->n; i++) {
        for (int32_t k = 0; k < t->length[i]; k++) {
            turned[t->offset[i] + k] = t->bytes[t->offset[i] + t->length[i] - 1 - k];
        }
        turned[t->offset[i] + t->length[i]] = OG_FIND_END;
    }
    f->bytes = guard_copy(t->bytes, (size_t)t->total, side);
    build_trie(&f->ahead, t, f->bytes, side);
    build_trie(&f->back, t, guard_copy(turned, (size_t)t->total, side), side);
    int32_t *suffixes = guard_take((size_t)t->total * sizeof *suffixes, side);
    f->n_suffixes = 0;
    for (int32_t i = 0; i < t->total; i++) {
        if (f->bytes[i] != OG_FIND_END && (f->bytes[i] & 0xC0) != 0x80) {
            suffixes[f->n_suffixes++] = i;
        }
    }
    og_find_sort(f->bytes, suffixes, f->n_suffixes);
    f->suffixes = suffixes;
    f->longest = t->longest;
}

static bool begins(const uint8_t *data, int32_t n, const uint8_t *what, int32_t length) {
    return length <= n && memcmp(data, what, (size_t)length) == 0;
}

static int32_t next_char(const uint8_t *data, int32_t n, int32_t at) {
    do at++;
    while (at < n && (data[at] & 0xC0) == 0x80);
    return at;
}

/* The required result of og_find_place_marks. */
static bool naive_places(const texts *t, const uint8_t *data, int32_t n, uint8_t *places) {
    bool whole = false;
    memset(places, 0, (size_t)n + 1);
    for (int32_t i = 0; i < t->n; i++) {
        const uint8_t *text = t->bytes + t->offset[i];
        const int32_t length = t->length[i];
        for (int32_t at = 0; at < n; at++) {
            if (begins(data + at, n - at, text, length)) {
                places[next_char(data, n, at)] = 1;
                whole = true;
            }
            /* The data end with a beginning of the text. */
            if ((data[at] & 0xC0) != 0x80 && n - at < length &&
                begins(text, length, data + at, n - at)) {
                places[next_char(data, n, at)] = 1;
            }
        }
        for (int32_t at = 1; at < length; at++) {
            if ((text[at] & 0xC0) == 0x80) continue;
            /* The data begin with an end of the text, or are inside it. */
            if (begins(data, n, text + at, length - at) ||
                begins(text + at, length - at, data, n)) {
                places[next_char(data, n, 0)] = 1;
            }
        }
        if (begins(text, length, data, n)) places[next_char(data, n, 0)] = 1;
    }
    return whole;
}

static void test_places(enum guard_side side, uint64_t *random) {
    texts t;
    og_find f;
    uint8_t data[2 * MAX_DATA], expected[2 * MAX_DATA + 1];
    const int32_t kinds = 1 + random_below(random, 4);
    fill_texts(&t, kinds, random);
    build(&f, &t, side);
    const int32_t n = fill(data, 1 + random_below(random, MAX_DATA), kinds, random);
    const bool expected_whole = naive_places(&t, data, n, expected);
    uint8_t *places = guard_take((size_t)n + 1, side);
    bool whole = !expected_whole;
    size_t count =
        og_find_place_marks(&f, guard_copy(data, (size_t)n, side), (size_t)n, places, &whole);
    CHECK(memcmp(places, expected, (size_t)n + 1) == 0, "%d texts, %d bytes", t.n, n);
    CHECK(whole == expected_whole, "%d, not %d", whole, expected_whole);
    for (int32_t i = 0; i <= n; i++) count -= expected[i];
    CHECK(count == 0, "%zu more or less", count);
    guard_give_all();
}

/* The required result of og_find_split: begin and end of each; returns their number. */
static size_t naive_split(const texts *t, const uint8_t *data, int32_t n, uint8_t mark,
                          int32_t *found) {
    size_t count = 0;
    int32_t at = 0;
    while (at < n) {
        int32_t longest = 0;
        for (int32_t i = 0; i < t->n; i++) {
            const int32_t end = at + t->length[i];
            if (!begins(data + at, n - at, t->bytes + t->offset[i], t->length[i])) continue;
            if (end < n && data[end] == mark) continue;
            if (t->length[i] > longest) longest = t->length[i];
        }
        if (longest > 0) {
            found[2 * count] = at;
            found[2 * count + 1] = at + longest;
            count++;
        }
        at += longest > 0 ? longest : 1;
    }
    return count;
}

static void test_split(enum guard_side side, uint64_t *random) {
    texts t;
    og_find f;
    uint8_t data[2 * MAX_DATA];
    int32_t expected[4 * MAX_DATA];
    const int32_t kinds = 1 + random_below(random, 4);
    /* Sometimes a mark that the texts contain. */
    const uint8_t marks[1] = {random_below(random, 4) ? '#' : 'a'};
    fill_texts(&t, kinds, random);
    build(&f, &t, side);
    const int32_t n = fill(data, random_below(random, MAX_DATA), kinds, random);
    for (int32_t i = 0; i < n; i++) {
        if (data[i] < 0x80 && random_below(random, 5) == 0) data[i] = marks[0];
    }
    const size_t n_expected = naive_split(&t, data, n, marks[0], expected);
    const size_t capacity = (size_t)random_below(random, 8) ? (size_t)n : n_expected / 2;
    const size_t window = (size_t)(t.longest + 1 + random_below(random, 20));
    int32_t *found = guard_take(2 * capacity * sizeof *found, side);
    uint16_t *lengths = guard_take(window * sizeof *lengths, side);
    const size_t count = og_find_split(&f, guard_copy(data, (size_t)n, side), (size_t)n,
                                       guard_copy(marks, sizeof marks, side), sizeof marks, lengths,
                                       window, found, capacity);
    const size_t kept = n_expected < capacity ? n_expected : capacity;
    CHECK(count == (n_expected > capacity ? capacity + 1 : n_expected), "%zu, not %zu of %zu",
          count, n_expected, capacity);
    CHECK(kept == 0 || memcmp(found, expected, 2 * kept * sizeof *found) == 0, "%d texts, %d bytes",
          t.n, n);
    guard_give_all();
}

static int compare(const uint8_t *a, const uint8_t *b) {
    while (*a == *b && *a != OG_FIND_END) {
        a++;
        b++;
    }
    return *a < *b ? -1 : *a > *b;
}

/* All suffixes of one repetitive text, including equal ones. */
static void test_sort(uint64_t *random) {
    enum { N = 3000 };
    static uint8_t bytes[N];
    static int32_t order[N];
    static bool seen[N];
    for (int32_t i = 0; i < N; i++) bytes[i] = (uint8_t)('a' + random_below(random, 12) / 11);
    for (int32_t i = 99; i < N; i += 100) bytes[i] = OG_FIND_END;
    for (int32_t i = 0; i < N; i++) {
        order[i] = i;
        seen[i] = false;
    }
    og_find_sort(bytes, order, N);
    for (int32_t i = 0; i < N; i++) {
        CHECK(!seen[order[i]], "%d comes twice", order[i]);
        seen[order[i]] = true;
        CHECK(i == 0 || compare(bytes + order[i - 1], bytes + order[i]) <= 0, "place %d", i);
    }
}

int main(void) {
    uint64_t random = 11;
    for (int i = 0; i < 20000; i++) {
        const enum guard_side side = i % 2 ? GUARD_BEHIND : GUARD_BEFORE;
        test_places(side, &random);
        test_split(side, &random);
    }
    test_sort(&random);
    return check_result("find");
}
