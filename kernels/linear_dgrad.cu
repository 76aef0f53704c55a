// linear_dgrad: dx = dy w, as the dgrad of a 1x1 convolution of 1x1 images
// Math      dx[n,i] = sum_j dy[n,j] * w[j,i]
// Layout    dy [N, classes], w [classes, features], dx [N, features], all f32
// Mapping   see conv2d_tap_gemm.cuh
// Reference LinearDgrad::cpu in src/ops/linear.rs
#include "conv2d_tap_gemm.cuh"

KERNEL(linear_dgrad_f32, Conv2dArgs, 256) { tap_gemm::run<float, Pass::kDgrad>(args); }
