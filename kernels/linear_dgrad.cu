// linear_dgrad: dx = dy w, as the dgrad of a 1x1 convolution of 1x1 images
// Math      dx[n,i] = sum_j dy[n,j] * w[j,i]
// Layout    dy [N, classes], w [classes, features], dx [N, features], all f32
// GEMM      gemm_m = N, gemm_n = features, gemm_k = classes
// Mapping   conv2d_tap_gemm.cuh
// Cost      2*out_c flop per element of src; DRAM floor = bytes(src) + bytes(weights) + bytes(out)
// Requires  any shape; grid = (row tiles * column tiles, 1, 1)
// Numerics  one ascending sum over gemm_k per output; no atomics, repeatable
// Reference LinearDgrad::cpu in src/ops/linear.rs
#include "conv2d_tap_gemm.cuh"

KERNEL(linear_dgrad_f32, Conv2dArgs, 256) { tap_gemm::run<float, Pass::kDgrad>(args); }
