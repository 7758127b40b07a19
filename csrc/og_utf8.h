/* Unfinished UTF-8 at the end of a text, which is held back until its bytes have come. Bytes that
 * cannot become a character are passed on, and decoded as U+FFFD per maximal subpart (Unicode 15,
 * section 3.9).
 */
#ifndef OG_UTF8_H
#define OG_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The number of bytes at the end of data[0..n-1] that begin a UTF-8 character which further bytes
 * can finish: 0..3. O(1). */
size_t og_utf8_unfinished(const uint8_t *data, size_t n);

#endif
