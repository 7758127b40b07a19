#define OG_LANES_SCALAR
#define KERNELS og_kernels_scalar
#define KERNELS_NAME "scalar"
#include "../og_kernels.inc"
