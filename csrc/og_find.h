/* Finds many texts at once: where a model's control texts stand in a prompt, and what could become
 * one of them together with the text beside it.
 *
 * Automata of Aho and Corasick (1975) over bytes: one look at every byte of the text, however many
 * texts are looked for. One automaton reads the text from its end, over the reversed texts: the
 * state at a byte then tells every text that BEGINS there (a forward one tells those that end).
 * A second one reads forward and tells which ends of the text begin a text.
 *
 * Strings are UTF-8, in one block, each ended by OG_FIND_END, a byte that UTF-8 never has. They are
 * named by their offset in the block. A node's children have neighbouring numbers in ascending
 * order of their bytes, so a node is 13 bytes; one of them is found by halving, at most 8 looks.
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

/* Sort n strings of a block of bytes, given by their offsets, in the order of their bytes; one that
 * begins another comes after it. Strings that are equal stand together. Looks at each byte that
 * tells two strings apart O(log n) times (multikey quicksort, Bentley and Sedgewick 1997);
 * recursion is O(log n) deep. */
void og_find_sort(const uint8_t *bytes, int32_t *order, int32_t n);

/* Nodes of the trie of n sorted different strings that are not empty: 1 .. their bytes + 1.
 * O(their bytes). */
int32_t og_trie_nodes(const uint8_t *bytes, const int32_t *order, int32_t n);

/* An automaton; node 0 is the root. The arrays lie in memory that the caller owns. */
typedef struct og_trie {
    int32_t n_nodes;
    int32_t root[256]; /* the root's child of each byte, 0 for none */
    int32_t *child;    /* n_nodes + 1: children of v are child[v] .. child[v + 1] - 1 */
    int32_t *fail;     /* node of the longest proper ending that is in the trie, 0 for none */
    uint16_t *depth;   /* length of the node's string */
    uint16_t *longest; /* length of the longest of the texts that ends it, 0 for none */
    uint8_t *label;    /* its last byte */
} og_trie;

/* Bytes of memory, aligned as int32_t is, that a trie of n_nodes nodes needs; a multiple of its
 * size. */
size_t og_trie_bytes(int32_t n_nodes);

/* Build the automaton of n sorted different strings of 1 .. OG_FIND_MAX_LENGTH bytes. n_nodes is
 * what og_trie_nodes says. O(their bytes). */
void og_trie_init(og_trie *t, void *memory, int32_t n_nodes, const uint8_t *bytes,
                  const int32_t *order, int32_t n);

/* All texts. What is found never depends on the order in which they were given. */
typedef struct og_find {
    og_trie ahead;           /* of the texts */
    og_trie back;            /* of the texts' reversed bytes */
    const uint8_t *bytes;    /* the texts, each with its end */
    const int32_t *suffixes; /* every ending of every text that begins with a character, sorted */
    int32_t n_suffixes;
    int32_t longest; /* bytes of the longest text, 0 when there is none */
} og_find;

/* Whether data[0..n-1], n >= 1, stands within one of the texts. O(n log n_suffixes). */
bool og_find_is_within(const og_find *f, const uint8_t *data, size_t n);

/* Find where a mark has to go so that data[0..n-1], n >= 1, UTF-8, neither holds one of the texts
 * nor becomes one with what is put in front of it or after it: after the first character of
 *   - every text in it, those that overlap included,
 *   - every ending of it that begins a text,
 *   - itself, if a beginning of it ends a text, or all of it stands within one.
 * places has n + 1 entries; places[i] becomes 1 where the mark goes before byte i, else 0.
 * *whole is set to whether it holds one of the texts. Returns the number of marks.
 * O(n) beside og_find_is_within, which is asked only when n < longest. */
size_t og_find_place_marks(const og_find *f, const uint8_t *data, size_t n, uint8_t *places,
                           bool *whole);

/* Find the texts in data[0..n-1], n <= INT32_MAX, from left to right: of those that begin at a byte
 * the longest that mark[0..n_mark-1], n_mark >= 1, does not follow; then on after its end. found
 * gets begin and end of each, 2 * capacity entries. Returns how many there are; more than capacity
 * means that it has stopped there. lengths has window entries, window >= longest, at least 1.
 * O(n) when the mark is in no text; else O(n * longest). */
size_t og_find_split(const og_find *f, const uint8_t *data, size_t n, const uint8_t *mark,
                     size_t n_mark, uint16_t *lengths, size_t window, int32_t *found,
                     size_t capacity);

#endif
