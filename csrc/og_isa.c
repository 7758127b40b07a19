/* Selects the kernels that can run here. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "og_kernels.h"

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

extern const og_kernels og_kernels_scalar;
#if defined(OG_BUILT_X86)
extern const og_kernels og_kernels_sse2, og_kernels_avx2, og_kernels_avx512;
#elif defined(OG_BUILT_NEON)
extern const og_kernels og_kernels_neon;
#endif

#if defined(OG_BUILT_X86)
#if defined(_MSC_VER)
/* CPUID leaf 7, and XGETBV for the state that the operating system saves on a context switch. */
static bool has(int ebx_bits, unsigned long long saved) {
    int leaf[4];
    __cpuid(leaf, 1);
    if (!(leaf[2] >> 27 & 1) || (_xgetbv(0) & saved) != saved) return false;
    __cpuidex(leaf, 7, 0);
    return (leaf[1] & ebx_bits) == ebx_bits;
}
static bool has_avx2(void) { return has(1 << 5, 0x6); }
static bool has_avx512(void) { return has(1 << 16 | 1 << 17 | 1 << 30 | (int)(1u << 31), 0xE6); }
#else
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("popcnt");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

const og_kernels *og_kernels_named(const char *name) {
#if defined(OG_BUILT_X86)
    if (!strcmp(name, "avx512")) return has_avx512() ? &og_kernels_avx512 : NULL;
    if (!strcmp(name, "avx2")) return has_avx2() ? &og_kernels_avx2 : NULL;
    if (!strcmp(name, "sse2")) return &og_kernels_sse2;
#elif defined(OG_BUILT_NEON)
    if (!strcmp(name, "neon")) return &og_kernels_neon;
#endif
    return strcmp(name, "scalar") ? NULL : &og_kernels_scalar;
}

const og_kernels *og_kernels_best(void) {
    static const char *const best_first[] = {"avx512", "avx2", "sse2", "neon"};
    for (size_t i = 0; i < sizeof best_first / sizeof *best_first; i++) {
        const og_kernels *kernels = og_kernels_named(best_first[i]);
        if (kernels != NULL) return kernels;
    }
    return &og_kernels_scalar;
}
