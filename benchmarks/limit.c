/* The limit that sampler.py compares with, and llama.cpp's work before its samplers.
 *
 * Two minimal passes over a row: the maximum, and the sum of exp(l - max). Nothing is stored,
 * checked or drawn. The loops have independent lanes, which the compiler vectorises; sampler.py
 * compiles this for one instruction set at a time, with and without fused multiply-add.
 */
#include <stdint.h>
#include <string.h>

enum { LANES = 64 };

float max_pass(const float *row, int32_t n) {
    float lanes[LANES];
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = row[lane % n];
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
        }
    }
    float max = lanes[0];
    for (int lane = 1; lane < LANES; lane++) max = lanes[lane] > max ? lanes[lane] : max;
    for (; i < n; i++) max = row[i] > max ? row[i] : max;
    return max;
}

static inline float exp_of(float x) {
    const float t = x * 1.44269504f + 12582912.0f;
    const float f = x * 1.44269504f - (t - 12582912.0f);
    float p = 1.32746331e-3f;
    p = p * f + 9.67196189e-3f;
    p = p * f + 5.55067845e-2f;
    p = p * f + 2.40222350e-1f;
    p = p * f + 6.93147063e-1f;
    p = p * f + 1.0f;
    int32_t bits, add;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&add, &t, sizeof add);
    bits += (int32_t)((uint32_t)add << 23);
    memcpy(&p, &bits, sizeof p);
    return p;
}

float exp_pass(const float *row, int32_t n, float max) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            const float x = row[i + lane] - max;
            lanes[lane] += exp_of(x > -80.0f ? x : -80.0f);
        }
    }
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    for (; i < n; i++) sum += exp_of(row[i] - max > -80.0f ? row[i] - max : -80.0f);
    return sum;
}

typedef struct token_data {
    int32_t id;
    float logit;
    float p;
} token_data;

/* The work of llama_sampler_sample on a row before it applies a chain. */
void fill(token_data *data, const float *row, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        data[i].id = i;
        data[i].logit = row[i];
        data[i].p = 0.0f;
    }
}
