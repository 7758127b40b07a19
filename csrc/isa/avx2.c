#define OG_LANES_AVX2
#define KERNELS og_kernels_avx2
#define KERNELS_NAME "avx2"
#include "../og_kernels.inc"
