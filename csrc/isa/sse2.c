#define OG_LANES_SSE2
#define KERNELS og_kernels_sse2
#define KERNELS_NAME "sse2"
#include "../og_kernels.inc"
