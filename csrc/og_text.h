/* From token bytes to text that may be shown: stop strings and unfinished UTF-8. Banned strings are
 * followed in the same way as stop strings.
 *
 * Stop strings. All are followed at once, with one KMP automaton each (Knuth, Morris, Pratt 1977):
 * after every byte, the state of a stop string is the length of the longest suffix of the stream
 * that is a prefix of the stop string. Thus the bytes that may still become a stop string are
 * exactly the last max(state), however the stream was split into pieces.
 * Definition of a match: the earliest END wins; among stop strings that end at the same byte the
 * longest. The text is cut before the match. (Of "abcd" and "bc", the stream "abcd" ends at "bc".)
 *
 * UTF-8. An unfinished character at the end is held back. Bytes that cannot become a character are
 * passed on and decoded as U+FFFD per maximal subpart (Unicode 15, section 3.9).
 */
#ifndef OG_TEXT_H
#define OG_TEXT_H

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

/* The number of bytes at the end of data[0..n-1] that begin a UTF-8 character which further bytes
 * can finish: 0..3. O(1). */
size_t og_utf8_unfinished(const uint8_t *data, size_t n);

#endif
