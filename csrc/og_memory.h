/* Lays out arrays one after the other in a block of memory that belongs to the caller.
 *
 * Every array begins at a multiple of OG_ALIGNMENT bytes if the block does. Under AddressSanitizer
 * each array is followed by poisoned bytes, so that an access beyond an array is detected although
 * it is inside the block.
 */
#ifndef OG_MEMORY_H
#define OG_MEMORY_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OG_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define OG_ADDRESS_SANITIZER
#endif

#if defined(OG_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
enum { OG_GAP = 64 };
#else
enum { OG_GAP = 0 };
#endif

/* Bytes of a cache line, which is also the size of the widest register. */
enum { OG_ALIGNMENT = 64 };

typedef struct og_memory {
    char *base;  /* NULL if only the size is wanted */
    size_t used; /* bytes so far, a multiple of OG_ALIGNMENT */
} og_memory;

/* Return the next `bytes` bytes of the block, not initialised; NULL if base is NULL. */
static inline void *og_memory_take(og_memory *m, size_t bytes) {
    char *here = m->base != NULL ? m->base + m->used : NULL;
    const size_t room = (bytes + OG_ALIGNMENT - 1) / OG_ALIGNMENT * OG_ALIGNMENT + OG_GAP;
    m->used += room;
#if defined(OG_ADDRESS_SANITIZER)
    if (here != NULL) {
        __asan_unpoison_memory_region(here, bytes);
        __asan_poison_memory_region(here + bytes, room - bytes);
    }
#endif
    return here;
}

#endif
