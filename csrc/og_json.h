/* What a JSON text holds, counted before anything is made of it.
 *
 * This is no check of the grammar. Of a text that is JSON up to some byte, everything before that
 * byte is counted as it is; a parser that stops at the first error never makes more than that.
 */
#ifndef OG_JSON_H
#define OG_JSON_H

#include <stddef.h>
#include <stdint.h>

enum { OG_JSON_DIGITS = 19 };

typedef struct og_json {
    size_t scalars; /* numbers, true, false, null */
    size_t strings; /* keys included */
    size_t keys;
    size_t fields; /* of them those of the outermost object */
    size_t lists;
    size_t objects;
    size_t depth;          /* lists and objects within each other, at most */
    size_t long_integers;  /* of more than OG_JSON_DIGITS digits, which fit no 64 bits */
    size_t longest_number; /* bytes */
    size_t constant;       /* where NaN, Infinity or -Infinity begins, the first; n for none */
} og_json;

/* Count data[0..n-1] (RFC 8259, UTF-8). O(n), one pass. */
void og_json_count(const uint8_t *data, size_t n, og_json *counts);

/* Find the commas at which data[0..n-1], a JSON list, is to be cut into pieces of whole items. A
 * piece ends with the first item that makes it `least` bytes long or longer; an item that is so
 * long by itself is a piece of its own. cuts gets the offsets of the commas, `capacity` of them;
 * capacity >= 2 * (n / least + 1) is always enough. Returns how many. Of what is no list, and of
 * what is no JSON, the cuts mean nothing. O(n). */
size_t og_json_cut(const uint8_t *data, size_t n, size_t least, size_t *cuts, size_t capacity);

#endif
