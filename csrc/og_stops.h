/* Where a stop string ends in a stream of bytes, and which bytes at its end may still become one.
 * Banned strings are followed in the same way.
 *
 * All strings are followed at once, with one KMP automaton each (Knuth, Morris, Pratt 1977):
 * after every byte, the state of a stop string is the length of the longest suffix of the stream
 * that is a prefix of the stop string. Thus the bytes that may still become a stop string are
 * exactly the last max(state), however the stream was split into pieces.
 * Definition of a match: the earliest END wins; among stop strings that end at the same byte the
 * longest. The text is cut before the match. (Of "abcd" and "bc", the stream "abcd" ends at "bc".)
 */
#ifndef OG_STOPS_H
#define OG_STOPS_H

#include <stddef.h>
#include <stdint.h>

/* The stop strings of a stream, in memory that belongs to the caller. Stop string i is
 * bytes[offset[i]] .. bytes[offset[i+1]-1], not empty; failure has the same layout; state has
 * n_stops entries and begins at 0. */
typedef struct og_stops {
    int32_t n_stops;
    const uint8_t *bytes;
    const int32_t *offset;
    int32_t *failure;
    int32_t *state;
} og_stops;

/* Fill `failure` from the bytes and set all states to 0. O(bytes of all stop strings). */
void og_stops_init(og_stops *s);

/* Follow data[0..n-1]. Returns the number of bytes read: n, or fewer if a stop string ended there;
 * then *matched is its index, else -1. *held is set to max(state), the number of bytes at the end
 * of the stream that may still become a stop string. After a match, do not call this again before
 * og_stops_init: the state of the matched stop string is its length, and it has no next byte.
 * Amortised O(n * n_stops). */
size_t og_stops_feed(og_stops *s, const uint8_t *data, size_t n, int32_t *matched, int32_t *held);

#endif
