#include "og_find.h"

#include <string.h>

/* --- sorting ---------------------------------------------------------------------------------- */

static void swap(int32_t *a, int32_t *b) {
    const int32_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Sort strings that are equal in their first `depth` bytes. */
static void sort_from(const uint8_t *bytes, int32_t *order, int32_t n, int32_t depth) {
    while (n > 1) {
        const uint8_t a = bytes[order[0] + depth], b = bytes[order[n / 2] + depth];
        const uint8_t c = bytes[order[n - 1] + depth];
        const uint8_t low = a < b ? a : b, high = a < b ? b : a;
        const uint8_t pivot = c < low ? low : c > high ? high : c;
        /* order[0..less-1] have a smaller byte here, order[more..n-1] a larger one. */
        int32_t less = 0, at = 0, more = n;
        while (at < more) {
            const uint8_t byte = bytes[order[at] + depth];
            if (byte < pivot) swap(&order[less++], &order[at++]);
            else if (byte > pivot) swap(&order[at], &order[--more]);
            else at++;
        }
        const int32_t sizes[3] = {less, pivot == OG_FIND_END ? 0 : more - less, n - more};
        const int32_t begins[3] = {0, less, more};
        int largest = 0;
        for (int i = 1; i < 3; i++) {
            if (sizes[i] > sizes[largest]) largest = i;
        }
        /* This loop continues with the largest part, so a recursive call has at most half of the
         * strings. */
        for (int i = 0; i < 3; i++) {
            if (i != largest) sort_from(bytes, order + begins[i], sizes[i], depth + (i == 1));
        }
        order += begins[largest];
        n = sizes[largest];
        depth += largest == 1;
    }
}

void og_find_sort(const uint8_t *bytes, int32_t *order, int32_t n) {
    sort_from(bytes, order, n, 0);
}

/* --- the automaton ---------------------------------------------------------------------------- */

int32_t og_trie_nodes(const uint8_t *bytes, const int32_t *order, int32_t n) {
    int32_t nodes = 1;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *text = bytes + order[i];
        int32_t shared = 0, length = 0;
        if (i > 0) {
            const uint8_t *before = bytes + order[i - 1];
            while (text[shared] == before[shared] && text[shared] != OG_FIND_END) shared++;
        }
        while (text[length] != OG_FIND_END) length++;
        nodes += length - shared;
    }
    return nodes;
}

size_t og_trie_bytes(int32_t n_nodes) {
    const size_t n = (size_t)n_nodes;
    const size_t bytes = (2 * n + 1) * sizeof(int32_t) + 2 * n * sizeof(uint16_t) + n;
    return (bytes + sizeof(int32_t) - 1) / sizeof(int32_t) * sizeof(int32_t);
}

/* Number the nodes level by level. Until a node is processed, child and fail hold the range of the
 * strings that pass through it. */
static void build_nodes(og_trie *t, const uint8_t *bytes, const int32_t *order, int32_t n) {
    int32_t next = 1;
    t->label[0] = OG_FIND_END;
    t->depth[0] = 0;
    t->child[0] = 0;
    t->fail[0] = n;
    for (int32_t v = 0; v < t->n_nodes; v++) {
        const int32_t end = t->fail[v];
        const uint16_t depth = t->depth[v];
        int32_t at = t->child[v];
        t->child[v] = next;
        t->longest[v] = 0;
        while (at < end) {
            const uint8_t byte = bytes[order[at] + depth];
            const int32_t first = at;
            while (at < end && bytes[order[at] + depth] == byte) at++;
            if (byte == OG_FIND_END) {
                t->longest[v] = depth;
                continue;
            }
            t->label[next] = byte;
            t->depth[next] = (uint16_t)(depth + 1);
            t->child[next] = first;
            t->fail[next] = at;
            next++;
        }
    }
    t->child[t->n_nodes] = next;
}

static int32_t child_of(const og_trie *t, int32_t node, uint8_t byte) {
    int32_t low = t->child[node], high = t->child[node + 1];
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (t->label[middle] < byte) low = middle + 1;
        else high = middle;
    }
    return low < t->child[node + 1] && t->label[low] == byte ? low : 0;
}

int32_t og_trie_follow(const og_trie *t, int32_t node, uint8_t byte) {
    while (node != 0) {
        const int32_t next = child_of(t, node, byte);
        if (next != 0) return next;
        node = t->fail[node];
    }
    return t->root[byte];
}

void og_trie_init(og_trie *t, void *memory, int32_t n_nodes, const uint8_t *bytes,
                  const int32_t *order, int32_t n) {
    t->n_nodes = n_nodes;
    t->child = memory;
    t->fail = t->child + n_nodes + 1;
    t->depth = (uint16_t *)(t->fail + n_nodes);
    t->longest = t->depth + n_nodes;
    t->label = (uint8_t *)(t->longest + n_nodes);
    build_nodes(t, bytes, order, n);
    memset(t->root, 0, sizeof t->root);
    t->fail[0] = 0;
    for (int32_t c = t->child[0]; c < t->child[1]; c++) {
        t->root[t->label[c]] = c;
        t->fail[c] = 0;
    }
    /* Level by level: the node that a node fails to is shorter, so it is already known. */
    for (int32_t v = 1; v < n_nodes; v++) {
        for (int32_t c = t->child[v]; c < t->child[v + 1]; c++) {
            t->fail[c] = og_trie_follow(t, t->fail[v], t->label[c]);
            if (t->longest[c] == 0) t->longest[c] = t->longest[t->fail[c]];
        }
    }
}

/* --- searching for texts ---------------------------------------------------------------------- */

static bool continues_character(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* Return where the character that begins at data[at] ends. */
static size_t after_character(const uint8_t *data, size_t n, size_t at) {
    do at++;
    while (at < n && continues_character(data[at]));
    return at;
}

bool og_find_is_within(const og_find *f, const uint8_t *data, size_t n) {
    int32_t low = 0, high = f->n_suffixes;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        const uint8_t *suffix = f->bytes + f->suffixes[middle];
        size_t same = 0;
        while (same < n && data[same] == suffix[same]) same++;
        if (same == n) return true;
        if (suffix[same] < data[same]) low = middle + 1;
        else high = middle;
    }
    return false;
}

size_t og_find_place_marks(const og_find *f, const uint8_t *data, size_t n, uint8_t *places,
                           bool *whole) {
    memset(places, 0, n + 1);
    *whole = false;
    if (f->longest == 0) return 0;
    int32_t state = 0;
    size_t next = n; /* where the next character begins */
    for (size_t at = n; at-- > 0;) {
        state = og_trie_follow(&f->back, state, data[at]);
        if (f->back.longest[state] > 0) {
            places[next] = 1;
            *whole = true;
        }
        if (!continues_character(data[at])) next = at;
    }
    const size_t longest = (size_t)f->longest;
    if (state != 0 || (n < longest && og_find_is_within(f, data, n))) {
        places[after_character(data, n, 0)] = 1;
    }
    state = 0;
    for (size_t at = n < longest ? 0 : n - longest; at < n; at++) {
        state = og_trie_follow(&f->ahead, state, data[at]);
    }
    for (; state != 0; state = f->ahead.fail[state]) {
        places[after_character(data, n, n - f->ahead.depth[state])] = 1;
    }
    size_t count = 0;
    for (size_t i = 0; i <= n; i++) count += places[i];
    return count;
}

/* The length of the longest text that begins at data[at] and that the mark does not follow; 0 for
 * none. The reversed string of `state` begins at data[at]. */
static uint16_t unmarked(const og_trie *t, int32_t state, const uint8_t *data, size_t n, size_t at,
                         const uint8_t *mark, size_t n_mark) {
    for (; t->longest[state] > 0; state = t->fail[state]) {
        const size_t end = at + t->longest[state];
        if (n - end < n_mark || memcmp(data + end, mark, n_mark) != 0) return t->longest[state];
    }
    return 0;
}

size_t og_find_split(const og_find *f, const uint8_t *data, size_t n, const uint8_t *mark,
                     size_t n_mark, uint16_t *lengths, size_t window, int32_t *found,
                     size_t capacity) {
    size_t count = 0, at = 0;
    if (f->longest == 0) return 0;
    while (at < n) {
        /* Find the texts that begin in this window; they may end in the next one. */
        const size_t begin = at, left = n - begin;
        const size_t size = left < window ? left : window;
        const size_t seen = left - size < (size_t)f->longest ? left : size + (size_t)f->longest;
        int32_t state = 0;
        for (size_t i = seen; i-- > 0;) {
            state = og_trie_follow(&f->back, state, data[begin + i]);
            if (i >= size) continue;
            lengths[i] = unmarked(&f->back, state, data, n, begin + i, mark, n_mark);
        }
        while (at < begin + size) {
            const uint16_t length = lengths[at - begin];
            if (length == 0) {
                at++;
                continue;
            }
            if (count == capacity) return capacity + 1;
            found[2 * count] = (int32_t)at;
            found[2 * count + 1] = (int32_t)(at + length);
            count++;
            at += length;
        }
    }
    return count;
}
