/* og_filter next to guard pages, against a search for every phrase and pattern at every place.
 *
 * The patterns are ranges of letters, one after the other, with a word boundary before and after or
 * not. tests/filters compares whole regular expressions with Python's. */
#include "og_filter.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "guard.h"

enum { MAX_PATTERNS = 3, MAX_PLACES = 4, MAX_STATES = MAX_PATTERNS * MAX_PLACES, MAX_TEXT = 24 };

typedef struct pattern {
    int32_t places;
    uint32_t first[MAX_PLACES], last[MAX_PLACES];
    bool before, after; /* whether a boundary is needed */
} pattern;

typedef struct patterns {
    int32_t n;
    pattern all[MAX_PATTERNS];
} patterns;

static uint32_t kinds_of(uint32_t c) { return c == ' ' ? OG_KIND_SPACE : OG_KIND_WORD; }

static uint32_t letter(uint64_t *random) {
    static const uint32_t letters[5] = {'a', 'b', ' ', 0xE9, 0x1F600};
    return letters[random_below(random, 5)];
}

static void fill_patterns(patterns *p, uint64_t *random) {
    memset(p, 0, sizeof *p);
    p->n = 1 + random_below(random, MAX_PATTERNS);
    for (int32_t i = 0; i < p->n; i++) {
        pattern *one = &p->all[i];
        one->places = 1 + random_below(random, MAX_PLACES);
        one->before = random_below(random, 3) == 0;
        one->after = random_below(random, 3) == 0;
        for (int32_t k = 0; k < one->places; k++) {
            const uint32_t a = letter(random), b = letter(random);
            one->first[k] = a < b ? a : b;
            one->last[k] = a < b ? b : a;
        }
    }
}

/* The tables of the patterns, in guarded memory. */
static void build(og_filter *f, const patterns *p, enum guard_side side) {
    int32_t n = 0;
    for (int32_t i = 0; i < p->n; i++) n += p->all[i].places;
    int32_t *begin = guard_take((size_t)(n + 2) * sizeof *begin, side);
    int32_t *target = guard_take((size_t)n * sizeof *target, side);
    uint8_t *when = guard_take((size_t)n, side);
    int32_t *state_class = guard_take((size_t)n * sizeof *state_class, side);
    uint8_t *end = guard_take((size_t)n, side);
    og_class *classes = guard_take((size_t)n * sizeof *classes, side);
    uint32_t *ranges = guard_take((size_t)n * 2 * sizeof *ranges, side);
    int32_t *first_begin = guard_take((OG_FILTER_ASCII + 1) * sizeof *first_begin, side);
    int32_t *first_edge = guard_take((size_t)p->n * OG_FILTER_ASCII * sizeof *first_edge, side);
    int32_t state = 0, edges = 0;
    for (int32_t i = 0; i < p->n; i++) {
        for (int32_t k = 0; k < p->all[i].places; k++, state++) {
            og_class *set = &classes[state];
            memset(set, 0, sizeof *set);
            set->begin = state;
            set->end = state + 1;
            ranges[2 * state] = p->all[i].first[k];
            ranges[2 * state + 1] = p->all[i].last[k];
            for (uint32_t c = 0; c < OG_FILTER_ASCII; c++) {
                if (c >= ranges[2 * state] && c <= ranges[2 * state + 1]) {
                    set->ascii[c >> 5] |= UINT32_C(1) << (c & 31);
                }
            }
            state_class[state] = state;
            begin[state] = edges;
            end[state] = 0;
            if (k + 1 < p->all[i].places) {
                target[edges] = state + 1;
                when[edges++] = OG_WHEN_ALWAYS;
            } else {
                end[state] = p->all[i].after ? OG_WHEN_BOUNDARY : OG_WHEN_ALWAYS;
            }
        }
    }
    begin[n] = edges;
    for (int32_t i = 0, at = 0; i < p->n; at += p->all[i++].places) {
        target[edges] = at;
        when[edges++] = p->all[i].before ? OG_WHEN_BOUNDARY : OG_WHEN_ALWAYS;
    }
    begin[n + 1] = edges;
    int32_t filled = 0;
    for (uint32_t c = 0; c < OG_FILTER_ASCII; c++) {
        first_begin[c] = filled;
        for (int32_t e = begin[n]; e < edges; e++) {
            if (classes[target[e]].ascii[c >> 5] >> (c & 31) & 1) first_edge[filled++] = e;
        }
    }
    first_begin[OG_FILTER_ASCII] = filled;
    memset(f, 0, sizeof *f);
    f->n_states = n;
    f->edge_begin = begin;
    f->edge_target = target;
    f->edge_when = when;
    f->state_class = state_class;
    f->state_end = end;
    f->classes = classes;
    f->ranges = ranges;
    f->first_begin = first_begin;
    f->first_edge = first_edge;
}

static bool boundary(const uint32_t *text, int32_t n, int32_t at) {
    const bool before = at > 0 && kinds_of(text[at - 1]) == OG_KIND_WORD;
    const bool after = at < n && kinds_of(text[at]) == OG_KIND_WORD;
    return before != after;
}

/* The length of the longest match of text[0..n-1] that ends at `end`, of the patterns whose end
 * must be proven or of the others; 0 for none. */
static int32_t matched(const patterns *p, const uint32_t *text, int32_t n, int32_t end,
                       bool proven) {
    int32_t longest = 0;
    for (int32_t i = 0; i < p->n; i++) {
        const pattern *one = &p->all[i];
        const int32_t begin = end - one->places;
        bool fits = begin >= 0 && one->after == proven;
        for (int32_t k = 0; fits && k < one->places; k++) {
            fits = text[begin + k] >= one->first[k] && text[begin + k] <= one->last[k];
        }
        fits = fits && (!one->before || boundary(text, n, begin));
        fits = fits && (!one->after || boundary(text, n, end));
        if (fits && one->places > longest) longest = one->places;
    }
    return longest;
}

static void compare(const patterns *p, const og_filter *f, uint64_t *random, enum guard_side side) {
    const int32_t n = random_below(random, MAX_TEXT + 1);
    uint32_t text[MAX_TEXT];
    for (int32_t i = 0; i < n; i++) text[i] = letter(random);
    int32_t expected_end = -1, expected = 0;
    for (int32_t end = 1; end <= n && expected == 0; end++) {
        expected = matched(p, text, n, end, false);
        if (expected == 0) expected = matched(p, text, n, end, true);
        expected_end = end;
    }
    og_filter_state s;
    const size_t bytes = (size_t)f->n_states * sizeof(int32_t);
    memset(&s, 0, sizeof s);
    s.active = guard_take(bytes, side);
    s.length = guard_take(bytes, side);
    s.next = guard_take(bytes, side);
    s.next_length = guard_take(bytes, side);
    s.slot = guard_take(bytes, side);
    memset(s.slot, 0, bytes);
    og_filter_begin(&s);
    int32_t length = 0, end = -1;
    for (int32_t i = 0; i < n && end < 0; i++) {
        const enum og_filter_result result =
            og_filter_step(f, &s, text[i], kinds_of(text[i]), &length);
        if (result == OG_FILTER_HERE) end = i + 1;
        if (result == OG_FILTER_BEFORE) end = i;
        CHECK(og_filter_held(f, &s) <= i + 1, "character %d", i);
    }
    if (end < 0 && og_filter_end(f, &s, &length)) end = n;
    CHECK(expected > 0 ? end == expected_end && length == expected : end < 0, "%d at %d", length,
          end);
    guard_give_all();
}

int main(void) {
    uint64_t random = 18;
    for (int32_t round = 0; round < 3000; round++) {
        const enum guard_side side = round % 2 ? GUARD_BEFORE : GUARD_BEHIND;
        patterns p;
        og_filter f;
        fill_patterns(&p, &random);
        build(&f, &p, side);
        compare(&p, &f, &random, side);
    }
    return check_result("filter");
}
