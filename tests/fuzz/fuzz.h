/* Helpers of both fuzz targets: bytes read as numbers, and a check that ends the program. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's interface; replay.c calls it too. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A failed check ends the program, so that the fuzzer keeps the input. */
#define PROMISE(condition, ...)                                             \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                   \
            fputc('\n', stderr);                                            \
            abort();                                                        \
        }                                                                   \
    } while (0)

/* The input, followed by zeros. */
typedef struct input {
    const uint8_t *data;
    size_t left;
} input;

static inline uint32_t read_byte(input *in) {
    if (in->left == 0) return 0;
    in->left--;
    return *in->data++;
}

/* 0 <= result < below <= 65536. */
static inline int32_t read_below(input *in, int32_t below) {
    uint32_t value = read_byte(in);
    if (below > 256) value |= read_byte(in) << 8;
    return (int32_t)(value % (uint32_t)below);
}

static inline uint32_t read_word(input *in) {
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) word |= read_byte(in) << 8 * i;
    return word;
}

#endif
