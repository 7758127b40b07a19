#include "guard.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "og_memory.h"

enum { MAX_REGIONS = 64 };

typedef struct region {
    unsigned char *base; /* a page, the memory, a page */
    size_t length;
    const void *data;
} region;

static region regions[MAX_REGIONS];

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static region *find(const void *data) {
    for (int i = 0; i < MAX_REGIONS; i++) {
        if (regions[i].base != NULL && regions[i].data == data) return &regions[i];
    }
    return NULL;
}

static region *free_region(void) {
    for (int i = 0; i < MAX_REGIONS; i++) {
        if (regions[i].base == NULL) return &regions[i];
    }
    fprintf(stderr, "guard: all regions are taken\n");
    exit(2);
}

static region *new_region(size_t bytes, enum guard_side side) {
    const size_t page = page_size();
    /* At least one page, so that memory of 0 bytes has a distinct address. */
    const size_t inner = bytes == 0 ? page : (bytes + page - 1) / page * page;
    region *r = free_region();
    r->length = inner + 2 * page;
    r->base = mmap(NULL, r->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->base == MAP_FAILED) fail("mmap");
    if (mprotect(r->base + page, inner, PROT_READ | PROT_WRITE) != 0) fail("mprotect");
    memset(r->base + page, 0xA5, inner);
    r->data = r->base + page + (side == GUARD_BEHIND ? inner - bytes : 0);
    return r;
}

void *guard_take(size_t bytes, enum guard_side side) {
    return (unsigned char *)(uintptr_t)new_region(bytes, side)->data;
}

const void *guard_copy(const void *data, size_t bytes, enum guard_side side) {
    const size_t page = page_size();
    region *r = new_region(bytes, side);
    if (bytes > 0) memcpy((void *)(uintptr_t)r->data, data, bytes);
    if (mprotect(r->base + page, r->length - 2 * page, PROT_READ) != 0) fail("mprotect");
    return r->data;
}

static void drop(region *r) {
#if defined(OG_ADDRESS_SANITIZER)
    /* The next owner of these pages may use them. */
    __asan_unpoison_memory_region(r->base, r->length);
#endif
    if (munmap(r->base, r->length) != 0) fail("munmap");
    r->base = NULL;
}

void guard_give(const void *data) {
    region *r = find(data);
    if (r == NULL) {
        fprintf(stderr, "guard: memory given back that was not taken\n");
        exit(2);
    }
    drop(r);
}

void guard_give_all(void) {
    for (int i = 0; i < MAX_REGIONS; i++) {
        if (regions[i].base != NULL) drop(&regions[i]);
    }
}
