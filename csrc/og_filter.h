/* Follows a text, character by character, and finds the phrases and patterns of a content filter.
 *
 * Phrases. One automaton of Aho and Corasick (og_find.h) over the UTF-8 of case-folded characters:
 * every character is read once, however many phrases there are.
 *
 * Patterns. All regular expressions are one automaton of Glushkov (1961): a state for each place
 * of a character in a pattern, no empty moves. The states that may be active are followed at the
 * same time (Thompson 1968), each with the length of the longest match that may be under way
 * there; so a character takes at most time proportional to the edges, and nothing is tried twice.
 *
 * Definition of a match, as for stop strings (og_stops.h): the earliest END wins; among matches
 * with the same end the longest. A pattern that ends with a word boundary ends before the character
 * that proves the boundary; a match with the same end that needs no proof wins.
 */
#ifndef OG_FILTER_H
#define OG_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "og_find.h"

/* Kinds of characters, as bits; the caller knows Unicode. */
enum { OG_KIND_WORD = 1, OG_KIND_DIGIT = 2, OG_KIND_SPACE = 4 };
/* When an edge may be taken, and when a match may end after a state: bits. */
enum { OG_WHEN_INSIDE = 1, OG_WHEN_BOUNDARY = 2, OG_WHEN_ALWAYS = 3 };
enum { OG_FILTER_ASCII = 128 };

/* A set of characters. */
typedef struct og_class {
    uint32_t ascii[4];     /* bit c: whether the ASCII character c belongs to it */
    int32_t begin, end;    /* its ranges */
    uint8_t kinds, others; /* characters of one of these kinds, or not of one of these, belong */
    uint8_t negated;       /* the set is the complement of all that */
    uint8_t unused;
} og_class;

/* A filter; all memory belongs to the caller, and nothing changes after it is made. State n_states
 * stands for the beginning of every match. */
typedef struct og_filter {
    const og_trie *phrases;     /* NULL without phrases */
    const uint16_t *characters; /* for each node of the trie: characters of its string */
    const uint16_t *phrase;     /* and of the longest phrase that ends it, 0 for none */
    const uint32_t *folds;      /* pairs: a character, and what it is folded to; ascending */
    int32_t n_folds;
    int32_t n_states;
    const int32_t *edge_begin; /* n_states + 2 */
    const int32_t *edge_target;
    const uint8_t *edge_when;
    const int32_t *state_class; /* n_states */
    const uint8_t *state_end;   /* n_states: when a match ends after it; 0 for never */
    const og_class *classes;
    const uint32_t *ranges;     /* pairs: first and last character; ascending in each class */
    const int32_t *first_begin; /* OG_FILTER_ASCII + 1 */
    const int32_t *first_edge;  /* the edges of the beginning that an ASCII character may take */
} og_filter;

/* How far a text has been followed. Arrays belong to the caller and have n_states entries; `slot`
 * begins with zeros. */
typedef struct og_filter_state {
    int32_t node;
    uint32_t kinds; /* of the last character; 0 at the beginning */
    bool quiet;     /* matches that end with the last character do not count */
    int32_t n_active;
    int32_t *active, *length, *next, *next_length, *slot;
} og_filter_state;

enum og_filter_result { OG_FILTER_NONE, OG_FILTER_HERE, OG_FILTER_BEFORE };

/* Begin a new text. */
void og_filter_begin(og_filter_state *s);

/* Follow one character of the given kinds. Returns whether a match ends with it (HERE) or before it
 * (BEFORE); then *length is its length in characters, and only og_filter_begin may follow. */
enum og_filter_result og_filter_step(const og_filter *f, og_filter_state *s, uint32_t character,
                                     uint32_t kinds, int32_t *length);

/* Follow one character of a text that comes before the text that is searched. Matches that end in
 * it do not count, not even if only the next character proves their end; matches that begin in it
 * do. */
void og_filter_prime(const og_filter *f, og_filter_state *s, uint32_t character, uint32_t kinds);

/* Whether a match ends with the end of the text; then *length is its length. */
bool og_filter_end(const og_filter *f, const og_filter_state *s, int32_t *length);

/* The number of characters at the end of the text that may still become a match. */
int32_t og_filter_held(const og_filter *f, const og_filter_state *s);

#endif
