/* Memory next to forbidden pages: an access one byte outside ends the program. */
#ifndef GUARD_H
#define GUARD_H

#include <stddef.h>

enum guard_side {
    GUARD_BEHIND, /* the memory ends where a forbidden page begins */
    GUARD_BEFORE  /* the memory begins where a forbidden page ends */
};

/* Writable memory of `bytes` bytes, filled with a pattern. With GUARD_BEHIND it is aligned
 * like `bytes`. Ends the program if there is no memory. */
void *guard_take(size_t bytes, enum guard_side side);

/* A copy that can only be read. */
const void *guard_copy(const void *data, size_t bytes, enum guard_side side);

/* Free memory from guard_take or guard_copy. */
void guard_give(const void *data);

/* Free all of it. */
void guard_give_all(void);

#endif
