#define OG_LANES_NEON
#define KERNELS og_kernels_neon
#define KERNELS_NAME "neon"
#include "../og_kernels.inc"
