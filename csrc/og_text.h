/* From token bytes to text that may be shown: stop strings and unfinished UTF-8.
 *
 * Stop strings. All of them are followed at once, one KMP automaton each (Knuth, Morris, Pratt
 * 1977): after every byte, the state of a stop is the length of the longest suffix of the stream
 * that is a prefix of it. So the bytes that may still become a stop are exactly the last
 * max(state), whatever the borders of the pieces were.
 * Definition of a match: the earliest END wins; among stops that end at the same byte the longest.
 * The text is cut before the match. (Of "abcd" and "bc", the stream "abcd" ends at "bc".)
 *
 * UTF-8. An unfinished character at the end is held back; anything that cannot become one is let
 * through and decoded as U+FFFD per maximal subpart (Unicode 15, section 3.9).
 */
#ifndef OG_TEXT_H
#define OG_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* The stops of a stream; caller-owned memory. Stop i is bytes[offset[i]] .. bytes[offset[i+1]-1],
 * not empty; failure has the same layout; state has n_stops entries and begins at 0. */
typedef struct og_stops {
    int32_t n_stops;
    const uint8_t *bytes;
    const int32_t *offset;
    int32_t *failure;
    int32_t *state;
} og_stops;

/* Fill `failure` from the bytes and set all states to 0. O(bytes of all stops). */
void og_stops_init(og_stops *s);

/* Follow data[0..n-1]. Returns the number of bytes taken: n, or fewer when a stop ended there; then
 * *matched is its index, else -1. *held is set to max(state), the bytes at the end of the stream
 * that may still become a stop. After a match nothing more is fed until og_stops_init: the state of
 * the stop is then its length, and the next byte of it does not exist. Amortised O(n * n_stops). */
size_t og_stops_feed(og_stops *s, const uint8_t *data, size_t n, int32_t *matched, int32_t *held);

/* How many bytes at the end of data[0..n-1] are the beginning of a UTF-8 character that further
 * bytes can finish: 0..3. O(1). */
size_t og_utf8_unfinished(const uint8_t *data, size_t n);

#endif
