/* A few vector operations with the same names for every instruction set.
 *
 * A file that includes this must define one of OG_LANES_AVX512, OG_LANES_AVX2, OG_LANES_SSE2,
 * OG_LANES_NEON or OG_LANES_SCALAR. Every operation below is exact or correctly rounded in IEEE 754
 * single precision, so that all instruction sets give the same bits. None is a fused multiply-add,
 * and the compiler is told not to create one (-ffp-contract=off).
 *
 *   WIDTH        lanes of a register; the kernels work on 16 lanes, 16 / WIDTH registers
 *   vf           that many floats
 *   vm           a mask of that many lanes
 *   vf_max(a, b) a > b ? a : b in every lane, thus b if one is NaN (x86's maxps)
 *   vf_max_where(m, a, b)   vf_max where m is set, b elsewhere
 *   vf_not_lt(a, b)         !(a < b), thus true if one is NaN
 *   vf_keep(m, a)           a where m is set, +0 elsewhere
 *   vm_bits      the mask as the low bits of a word, lane 0 lowest
 *   vf_exponent(p, t)   p * 2^n, where t = n + 1.5 * 2^23 and the result is zero or normal: adds n
 *                to the exponent field of p
 */
#ifndef OG_LANES_H
#define OG_LANES_H

#include <stdint.h>

#if defined(OG_LANES_AVX512)

#include <immintrin.h>
enum { WIDTH = 16 };
typedef __m512 vf;
typedef __mmask16 vm;
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_from_ints(const int32_t *p) {
    return _mm512_cvtepi32_ps(_mm512_loadu_si512((const void *)p));
}
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline vm vf_not_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
static inline vm vm_or(vm a, vm b) { return (vm)(a | b); }
static inline vm vm_and_not(vm a, vm b) { return (vm)(a & ~b); }
static inline vf vf_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
static inline vf vf_max_where(vm m, vf a, vf b) { return _mm512_mask_max_ps(b, m, a, b); }
static inline vf vf_keep(vm m, vf a) { return _mm512_maskz_mov_ps(m, a); }
static inline uint32_t vm_bits(vm m) { return m; }
static inline vm vm_from_bits(uint32_t bits) { return (vm)bits; }
static inline vf vf_exponent(vf p, vf t) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

#elif defined(OG_LANES_AVX2)

#include <immintrin.h>
enum { WIDTH = 8 };
typedef __m256 vf;
typedef __m256 vm;
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_from_ints(const int32_t *p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vm vf_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline vm vf_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline vm vf_not_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_NLT_UQ); }
static inline vm vm_or(vm a, vm b) { return _mm256_or_ps(a, b); }
static inline vm vm_and_not(vm a, vm b) { return _mm256_andnot_ps(b, a); }
static inline vf vf_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }
static inline vf vf_max_where(vm m, vf a, vf b) { return vf_max(vf_select(m, a, b), b); }
static inline vf vf_keep(vm m, vf a) { return _mm256_and_ps(m, a); }
static inline uint32_t vm_bits(vm m) { return (uint32_t)_mm256_movemask_ps(m); }
static inline vm vm_from_bits(uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i mine = _mm256_and_si256(_mm256_set1_epi32((int)bits), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, lane));
}
static inline vf vf_exponent(vf p, vf t) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}

#elif defined(OG_LANES_SSE2)

#include <emmintrin.h>
enum { WIDTH = 4 };
typedef __m128 vf;
typedef __m128 vm;
static inline vf vf_set(float x) { return _mm_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm_storeu_ps(p, a); }
static inline vf vf_from_ints(const int32_t *p) {
    return _mm_cvtepi32_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf vf_add(vf a, vf b) { return _mm_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
static inline vm vf_ge(vf a, vf b) { return _mm_cmpge_ps(a, b); }
static inline vm vf_gt(vf a, vf b) { return _mm_cmpgt_ps(a, b); }
static inline vm vf_not_lt(vf a, vf b) { return _mm_cmpnlt_ps(a, b); }
static inline vm vm_or(vm a, vm b) { return _mm_or_ps(a, b); }
static inline vm vm_and_not(vm a, vm b) { return _mm_andnot_ps(b, a); }
static inline vf vf_select(vm m, vf a, vf b) {
    return _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b));
}
static inline vf vf_max_where(vm m, vf a, vf b) { return vf_max(vf_select(m, a, b), b); }
static inline vf vf_keep(vm m, vf a) { return _mm_and_ps(m, a); }
static inline uint32_t vm_bits(vm m) { return (uint32_t)_mm_movemask_ps(m); }
static inline vm vm_from_bits(uint32_t bits) {
    const __m128i lane = _mm_setr_epi32(1, 2, 4, 8);
    const __m128i mine = _mm_and_si128(_mm_set1_epi32((int)bits), lane);
    return _mm_castsi128_ps(_mm_cmpeq_epi32(mine, lane));
}
static inline vf vf_exponent(vf p, vf t) {
    return _mm_castsi128_ps(
        _mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(_mm_castps_si128(t), 23)));
}

#elif defined(OG_LANES_NEON)

#include <arm_neon.h>
enum { WIDTH = 4 };
typedef float32x4_t vf;
typedef uint32x4_t vm;
static inline vf vf_set(float x) { return vdupq_n_f32(x); }
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf a) { vst1q_f32(p, a); }
static inline vf vf_from_ints(const int32_t *p) { return vcvtq_f32_s32(vld1q_s32(p)); }
static inline vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline vm vf_ge(vf a, vf b) { return vcgeq_f32(a, b); }
static inline vm vf_gt(vf a, vf b) { return vcgtq_f32(a, b); }
static inline vm vf_not_lt(vf a, vf b) { return vmvnq_u32(vcltq_f32(a, b)); }
static inline vm vm_or(vm a, vm b) { return vorrq_u32(a, b); }
static inline vm vm_and_not(vm a, vm b) { return vbicq_u32(a, b); }
static inline vf vf_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }
static inline vf vf_max_where(vm m, vf a, vf b) { return vf_max(vf_select(m, a, b), b); }
static inline vf vf_keep(vm m, vf a) {
    return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(a)));
}
static inline vm vm_lane(void) {
    static const uint32_t lane[4] = {1, 2, 4, 8};
    return vld1q_u32(lane);
}
static inline uint32_t vm_bits(vm m) { return vaddvq_u32(vandq_u32(m, vm_lane())); }
static inline vm vm_from_bits(uint32_t bits) { return vtstq_u32(vdupq_n_u32(bits), vm_lane()); }
static inline vf vf_exponent(vf p, vf t) {
    return vreinterpretq_f32_u32(
        vaddq_u32(vreinterpretq_u32_f32(p), vshlq_n_u32(vreinterpretq_u32_f32(t), 23)));
}

#elif defined(OG_LANES_SCALAR)

#include <string.h>
enum { WIDTH = 1 };
typedef float vf;
typedef uint32_t vm; /* 0 or 1 */
static inline vf vf_set(float x) { return x; }
static inline vf vf_load(const float *p) { return *p; }
static inline void vf_store(float *p, vf a) { *p = a; }
static inline vf vf_from_ints(const int32_t *p) { return (float)*p; }
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_max(vf a, vf b) { return a > b ? a : b; }
static inline vm vf_ge(vf a, vf b) { return a >= b; }
static inline vm vf_gt(vf a, vf b) { return a > b; }
static inline vm vf_not_lt(vf a, vf b) { return !(a < b); }
static inline vm vm_or(vm a, vm b) { return a | b; }
static inline vm vm_and_not(vm a, vm b) { return a & ~b & 1u; }
static inline vf vf_select(vm m, vf a, vf b) { return m ? a : b; }
static inline vf vf_max_where(vm m, vf a, vf b) { return m && a > b ? a : b; }
static inline vf vf_keep(vm m, vf a) { return m ? a : 0.0f; }
static inline uint32_t vm_bits(vm m) { return m; }
static inline vm vm_from_bits(uint32_t bits) { return bits & 1u; }
static inline vf vf_exponent(vf p, vf t) {
    uint32_t p_bits, t_bits;
    memcpy(&p_bits, &p, sizeof p);
    memcpy(&t_bits, &t, sizeof t);
    p_bits += t_bits << 23;
    memcpy(&p, &p_bits, sizeof p);
    return p;
}

#else
#error "define the lanes before including og_lanes.h"
#endif

#endif
