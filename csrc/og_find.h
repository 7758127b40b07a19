/* Finds many texts at once: where a model's control texts occur in a prompt, and which text could
 * become one of them together with neighbouring text.
 *
 * Automata of Aho and Corasick (1975) over bytes: every byte of the text is read once, however many
 * texts are searched for. One automaton reads the text from its end, over the reversed texts, so
 * that its state at a byte gives every text that BEGINS there (a forward one gives the texts that
 * end). A second one reads forward and finds the endings of the text that begin one of the texts.
 *
 * Strings are UTF-8, in one block, each ended by OG_FIND_END, a byte that never occurs in UTF-8. A
 * string is named by its offset in the block. A node's children have consecutive numbers in
 * ascending order of their bytes, so a node takes 13 bytes, and binary search finds a child in at
 * most 8 comparisons.
 */
#ifndef OG_FIND_H
#define OG_FIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OG_FIND_END = 0xFF,
    OG_FIND_MAX_LENGTH = 256,   /* bytes of one text */
    OG_FIND_MAX_BYTES = 4 << 20 /* of all texts with their ends */
};

/* Sort n strings of a block of bytes, given by their offsets, in the order of their bytes. A string
 * that begins another comes after it. Equal strings are adjacent. Each byte that distinguishes two
 * strings is read O(log n) times (multikey quicksort, Bentley and Sedgewick 1997); the recursion is
 * O(log n) deep. */
void og_find_sort(const uint8_t *bytes, int32_t *order, int32_t n);

/* Return the number of trie nodes for n sorted, different, non-empty strings: 1 .. their bytes + 1.
 * O(their bytes). */
int32_t og_trie_nodes(const uint8_t *bytes, const int32_t *order, int32_t n);

/* An automaton; node 0 is the root. The arrays lie in memory that belongs to the caller. */
typedef struct og_trie {
    int32_t n_nodes;
    int32_t root[256]; /* the root's child for each byte, 0 for none */
    int32_t *child;    /* n_nodes + 1: children of v are child[v] .. child[v + 1] - 1 */
    int32_t *fail;     /* node of the longest proper ending that is in the trie, 0 for none */
    uint16_t *depth;   /* length of the node's string */
    uint16_t *longest; /* length of the longest text that ends the node's string, 0 for none */
    uint8_t *label;    /* last byte of the node's string */
} og_trie;

/* Bytes of memory that a trie of n_nodes nodes needs, aligned as int32_t; a multiple of the size of
 * int32_t. */
size_t og_trie_bytes(int32_t n_nodes);

/* Build the automaton of n sorted different strings of 1 .. OG_FIND_MAX_LENGTH bytes. n_nodes is
 * the result of og_trie_nodes. O(their bytes). */
void og_trie_init(og_trie *t, void *memory, int32_t n_nodes, const uint8_t *bytes,
                  const int32_t *order, int32_t n);

/* Return the node after one more byte: that of the longest ending of the bytes read so far that is
 * in the trie. Amortised O(1) for each byte of a text, times the search of a child. */
int32_t og_trie_follow(const og_trie *t, int32_t node, uint8_t byte);

/* All texts. Results never depend on the order in which the texts were given. */
typedef struct og_find {
    og_trie ahead;           /* of the texts */
    og_trie back;            /* of the texts' reversed bytes */
    const uint8_t *bytes;    /* the texts, each with its end */
    const int32_t *suffixes; /* every ending of every text that begins with a character, sorted */
    int32_t n_suffixes;
    int32_t longest; /* bytes of the longest text, 0 when there is none */
} og_find;

/* Whether data[0..n-1], n >= 1, occurs within one of the texts. O(n log n_suffixes). */
bool og_find_is_within(const og_find *f, const uint8_t *data, size_t n);

/* Find where a mark must be inserted so that data[0..n-1], n >= 1, UTF-8, neither contains one of
 * the texts nor forms one with text before or after it. Marks go after the first character of
 *   - every occurrence of a text, overlapping ones included,
 *   - every ending of the data that begins a text,
 *   - the data itself, if a beginning of it ends a text, or if all of it occurs within a text.
 * places has n + 1 entries; places[i] becomes 1 if a mark goes before byte i, else 0. *whole is set
 * to whether the data contains one of the texts. Returns the number of marks.
 * O(n) plus og_find_is_within, which is called only if n < longest. */
size_t og_find_place_marks(const og_find *f, const uint8_t *data, size_t n, uint8_t *places,
                           bool *whole);

/* Find the texts in data[0..n-1], n <= INT32_MAX, from left to right: among the texts that begin at
 * a byte, the longest one that mark[0..n_mark-1], n_mark >= 1, does not follow. The search
 * continues after its end. found gets the begin and end of each, 2 * capacity entries. Returns
 * their number; more than capacity means that the search stopped early. lengths has window entries;
 * window is at least 1 and at least longest. O(n) if the mark occurs in no text; else O(n *
 * longest). */
size_t og_find_split(const og_find *f, const uint8_t *data, size_t n, const uint8_t *mark,
                     size_t n_mark, uint16_t *lengths, size_t window, int32_t *found,
                     size_t capacity);

#endif
