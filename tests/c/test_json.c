/* og_json next to guard pages. Random JSON is compared with a parser in
 * tests/api/fields/test_bodies.py. */
#include "og_json.h"

#include "check.h"
#include "guard.h"

static og_json count(const char *text, size_t n, enum guard_side side) {
    og_json counts;
    og_json_count(guard_copy(text, n, side), n, &counts);
    guard_give_all();
    return counts;
}

static void test_values(enum guard_side side) {
    static const char text[] =
        "{\"a\": [1, -2.5e+10, true, null], \"b\\\"{[\": {\"c\\\\\": \"NaN:,\"}}";
    const og_json c = count(text, sizeof text - 1, side);
    CHECK(c.scalars == 4 && c.strings == 4 && c.keys == 3 && c.fields == 2, "%zu %zu %zu",
          c.scalars, c.strings, c.keys);
    CHECK(c.lists == 1 && c.objects == 2 && c.depth == 2, "%zu %zu %zu", c.lists, c.objects,
          c.depth);
    CHECK(c.longest_number == 8 && c.constant == sizeof text - 1, "%zu %zu", c.longest_number,
          c.constant);
}

static void test_integers(enum guard_side side) {
    static const struct {
        const char *text;
        size_t n;
    } cases[] = {{"1234567890123456789", 0},
                 {"-1234567890123456789", 0},
                 {"12345678901234567890", 1},
                 {"-12345678901234567890", 1},
                 {"1234567890123456789.5", 0},
                 {"1e12345678901234567890", 0},
                 {"[10000000000000000000,20000000000000000000]", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const og_json c = count(cases[i].text, strlen(cases[i].text), side);
        CHECK(c.long_integers == cases[i].n, "%s: %zu", cases[i].text, c.long_integers);
    }
}

static void test_constants(enum guard_side side) {
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {{"[NaN]", 1},   {"[1,-Infinity]", 3}, {"Infinity", 0},       {"[NaNs]", 6},
                 {"\"NaN\"", 5}, {"[nan]", 5},         {"[Infinity,NaN]", 1}, {"", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const og_json c = count(cases[i].text, strlen(cases[i].text), side);
        CHECK(c.constant == cases[i].at, "%s: %zu", cases[i].text, c.constant);
    }
}

/* Any bytes, and any piece of a text: nothing outside of it is read. */
static void test_any(enum guard_side side, uint64_t *random) {
    static const char alphabet[] = "[]{}:,\"\\aN1-. \n\xC3\xA9";
    char text[40];
    const int32_t n = random_below(random, sizeof text + 1);
    size_t brackets = 0;
    for (int32_t i = 0; i < n; i++) {
        text[i] = alphabet[random_below(random, sizeof alphabet - 1)];
        brackets += text[i] == '[' || text[i] == '{';
    }
    const og_json c = count(text, (size_t)n, side);
    CHECK(c.lists + c.objects <= brackets && c.depth <= brackets, "%zu %zu", c.lists, c.objects);
    CHECK(c.scalars + c.strings <= (size_t)n && c.constant <= (size_t)n, "%zu", c.constant);
}

static void check_cuts(const char *text, size_t n, size_t least, const size_t *cuts, size_t count) {
    size_t begin = 1;
    for (size_t i = 0; i <= count; i++) {
        const size_t end = i < count ? cuts[i] : n - 1;
        CHECK(i == count || text[end] == ',', "a cut at %zu of %s", end, text);
        size_t items = 1, depth = 0;
        for (size_t at = begin; at < end; at++) {
            depth += text[at] == '[';
            depth -= text[at] == ']';
            items += depth == 0 && text[at] == ',';
        }
        CHECK(depth == 0, "a piece within an item of %s", text);
        CHECK(items == 1 || end - begin < 2 * least, "%zu bytes of %s", end - begin, text);
        begin = end + 1;
    }
}

/* Pieces are whole items; a piece of several items is short. */
static void test_cuts(enum guard_side side, uint64_t *random) {
    enum { MOST = 200 };
    char text[MOST + 40];
    size_t n = 0, depth = 1;
    text[n++] = '[';
    while (n < MOST || depth > 1) {
        const int32_t kind = random_below(random, 8);
        if (kind == 0 && n < MOST) {
            text[n++] = '[';
            depth++;
            continue;
        }
        const char *item = kind < 5 ? "1" : kind < 7 ? "[22]" : "\"],\\\"[\"";
        memcpy(text + n, item, strlen(item));
        n += strlen(item);
        while (depth > 1 && (random_below(random, 3) == 0 || n >= MOST)) {
            text[n++] = ']';
            depth--;
        }
        text[n++] = ',';
        if (n > MOST + 20) break;
    }
    n--;
    while (depth-- > 0) text[n++] = ']';
    text[n] = 0;
    const size_t least = (size_t)(1 + random_below(random, 30)), capacity = 2 * (n / least + 1);
    size_t *cuts = guard_take(capacity * sizeof *cuts, side);
    const size_t count = og_json_cut(guard_copy(text, n, side), n, least, cuts, capacity);
    CHECK(count <= capacity, "%zu cuts", count);
    if (strchr(text, '"') == NULL) check_cuts(text, n, least, cuts, count);
    guard_give_all();
}

int main(void) {
    uint64_t random = 3;
    for (int side = 0; side < 2; side++) {
        test_values(side ? GUARD_BEHIND : GUARD_BEFORE);
        test_integers(side ? GUARD_BEHIND : GUARD_BEFORE);
        test_constants(side ? GUARD_BEHIND : GUARD_BEFORE);
    }
    for (int i = 0; i < 20000; i++) test_any(i % 2 ? GUARD_BEHIND : GUARD_BEFORE, &random);
    for (int i = 0; i < 20000; i++) test_cuts(i % 2 ? GUARD_BEHIND : GUARD_BEFORE, &random);
    return check_result("json");
}
