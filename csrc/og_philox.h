/* Counter-based random numbers: Philox 4x32-10.
 *
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * It uses only integer arithmetic, so the same key and counter give the same bits on every machine,
 * and the number at any position can be computed without those before it.
 */
#ifndef OG_PHILOX_H
#define OG_PHILOX_H

#include <stdint.h>

/* The block function: out[0..3] from a 128-bit counter and a 64-bit key, lowest word first.
 * O(1). counter and out may be the same array. */
void og_philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A uniform double in [0, 1) with 53 random bits for (seed, choice, position, stream).
 * Layout: key = seed (low word, high word); counter = position (low, high), choice, stream.
 * This layout is part of the promise that a seed gives the same tokens in later versions. */
double og_philox_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stream);

#endif
