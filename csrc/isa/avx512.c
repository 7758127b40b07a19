#define OG_LANES_AVX512
#define KERNELS og_kernels_avx512
#define KERNELS_NAME "avx512"
#include "../og_kernels.inc"
