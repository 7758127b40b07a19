/* Counts the contents of a JSON text before anything is built from it.
 *
 * This does not validate the grammar. If a text is JSON up to some byte, the contents before that
 * byte are counted correctly; a parser that stops at the first error never builds more than that.
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
    size_t fields; /* keys of the outermost object */
    size_t lists;
    size_t objects;
    size_t depth;          /* largest nesting depth of lists and objects */
    size_t long_integers;  /* of more than OG_JSON_DIGITS digits, which do not fit 64 bits */
    size_t longest_number; /* bytes */
    size_t constant;       /* offset of the first NaN, Infinity or -Infinity; n for none */
} og_json;

/* Count data[0..n-1] (RFC 8259, UTF-8). O(n), one pass. */
void og_json_count(const uint8_t *data, size_t n, og_json *counts);

/* Find the commas at which to cut data[0..n-1], a JSON list, into pieces of whole items. A piece
 * ends with the first item that makes it at least `least` bytes long; an item of that length is a
 * separate piece. cuts gets the offsets of the commas, at most `capacity`; capacity >= 2 * (n /
 * least + 1) is always enough. Returns their number. If data is not a list, or not JSON, the cuts
 * are meaningless. O(n). */
size_t og_json_cut(const uint8_t *data, size_t n, size_t least, size_t *cuts, size_t capacity);

#endif
