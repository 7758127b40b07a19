#include "og_filter.h"

#include <stddef.h>

void og_filter_begin(og_filter_state *s) {
    s->node = 0;
    s->kinds = 0;
    s->quiet = false;
    s->n_active = 0;
}

/* --- phrases ---------------------------------------------------------------------------------- */

static uint32_t folded(const og_filter *f, uint32_t character) {
    if (character < OG_FILTER_ASCII) {
        return character >= 'A' && character <= 'Z' ? character + 32 : character;
    }
    int32_t low = 0, high = f->n_folds;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (f->folds[2 * middle] < character) low = middle + 1;
        else high = middle;
    }
    if (low < f->n_folds && f->folds[2 * low] == character) return f->folds[2 * low + 1];
    return character;
}

/* Encode as UTF-8, surrogates too: they are in no phrase. */
static int encode(uint32_t c, uint8_t bytes[4]) {
    if (c < 0x80) {
        bytes[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        bytes[0] = (uint8_t)(0xC0 | c >> 6);
        bytes[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        bytes[0] = (uint8_t)(0xE0 | c >> 12);
        bytes[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        bytes[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    bytes[0] = (uint8_t)(0xF0 | c >> 18);
    bytes[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    bytes[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    bytes[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

static int32_t phrase_ends(const og_filter *f, og_filter_state *s, uint32_t character) {
    uint8_t bytes[4];
    const int n = encode(folded(f, character), bytes);
    for (int i = 0; i < n; i++) s->node = og_trie_follow(f->phrases, s->node, bytes[i]);
    return f->phrase[s->node];
}

/* --- patterns --------------------------------------------------------------------------------- */

static bool belongs(const og_filter *f, int32_t index, uint32_t character, uint32_t kinds) {
    const og_class *set = &f->classes[index];
    if (character < OG_FILTER_ASCII) return set->ascii[character >> 5] >> (character & 31) & 1;
    bool found = (set->kinds & kinds) != 0 || (set->others & ~kinds) != 0;
    int32_t low = set->begin, high = set->end;
    while (!found && low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (f->ranges[2 * middle + 1] < character) low = middle + 1;
        else if (f->ranges[2 * middle] > character) high = middle;
        else found = true;
    }
    return found != (set->negated != 0);
}

/* Make a state active after the character, with the longest of its matches. */
static void add(og_filter_state *s, int32_t *n, int32_t state, int32_t length) {
    const int32_t place = s->slot[state];
    if (place > 0) {
        if (s->next_length[place - 1] < length) s->next_length[place - 1] = length;
        return;
    }
    s->next[*n] = state;
    s->next_length[*n] = length;
    s->slot[state] = ++*n;
}

static void take(const og_filter *f, og_filter_state *s, int32_t *n, int32_t edge, int32_t length,
                 uint32_t character, uint32_t kinds, uint8_t when) {
    const int32_t target = f->edge_target[edge];
    if ((f->edge_when[edge] & when) == 0) return;
    if (!belongs(f, f->state_class[target], character, kinds)) return;
    add(s, n, target, length);
}

/* The longest match that ends after the last character if the situation is `when`. */
static int32_t longest_end(const og_filter *f, const og_filter_state *s, uint8_t when) {
    int32_t longest = 0;
    for (int32_t i = 0; i < s->n_active; i++) {
        const bool ends = (f->state_end[s->active[i]] & when) == when;
        if (ends && s->length[i] > longest) longest = s->length[i];
    }
    return longest;
}

static void advance(const og_filter *f, og_filter_state *s, uint32_t character, uint32_t kinds,
                    uint8_t when) {
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_active; i++) {
        const int32_t state = s->active[i];
        for (int32_t e = f->edge_begin[state]; e < f->edge_begin[state + 1]; e++) {
            take(f, s, &n, e, s->length[i] + 1, character, kinds, when);
        }
    }
    if (character < OG_FILTER_ASCII) {
        for (int32_t i = f->first_begin[character]; i < f->first_begin[character + 1]; i++) {
            const int32_t edge = f->first_edge[i];
            if (f->edge_when[edge] & when) add(s, &n, f->edge_target[edge], 1);
        }
    } else {
        for (int32_t e = f->edge_begin[f->n_states]; e < f->edge_begin[f->n_states + 1]; e++) {
            take(f, s, &n, e, 1, character, kinds, when);
        }
    }
    for (int32_t i = 0; i < n; i++) s->slot[s->next[i]] = 0;
    int32_t *const active = s->active, *const length = s->length;
    s->active = s->next;
    s->length = s->next_length;
    s->next = active;
    s->next_length = length;
    s->n_active = n;
}

/* --- both ------------------------------------------------------------------------------------- */

enum og_filter_result og_filter_step(const og_filter *f, og_filter_state *s, uint32_t character,
                                     uint32_t kinds, int32_t *length) {
    int32_t longest = 0;
    if (f->n_states > 0) {
        const bool boundary = ((s->kinds ^ kinds) & OG_KIND_WORD) != 0;
        const uint8_t when = boundary ? OG_WHEN_BOUNDARY : OG_WHEN_INSIDE;
        *length = s->quiet ? 0 : longest_end(f, s, when);
        if (*length > 0) return OG_FILTER_BEFORE;
        advance(f, s, character, kinds, when);
        longest = longest_end(f, s, OG_WHEN_ALWAYS);
    }
    if (f->phrases != NULL) {
        const int32_t phrase = phrase_ends(f, s, character);
        if (phrase > longest) longest = phrase;
    }
    s->kinds = kinds;
    s->quiet = false;
    *length = longest;
    return longest > 0 ? OG_FILTER_HERE : OG_FILTER_NONE;
}

void og_filter_prime(const og_filter *f, og_filter_state *s, uint32_t character, uint32_t kinds) {
    int32_t length;
    s->quiet = true;
    og_filter_step(f, s, character, kinds, &length);
    s->quiet = true;
}

bool og_filter_end(const og_filter *f, const og_filter_state *s, int32_t *length) {
    const bool boundary = (s->kinds & OG_KIND_WORD) != 0;
    *length = s->quiet ? 0 : longest_end(f, s, boundary ? OG_WHEN_BOUNDARY : OG_WHEN_INSIDE);
    return *length > 0;
}

int32_t og_filter_held(const og_filter *f, const og_filter_state *s) {
    int32_t held = f->phrases == NULL ? 0 : f->characters[s->node];
    for (int32_t i = 0; i < s->n_active; i++) {
        if (s->length[i] > held) held = s->length[i];
    }
    return held;
}
