// linear_fprop: y = x w^T + b, as the 1x1 convolution of 1x1 images
// Math      y[n,j] = sum_i x[n,i] * w[j,i] + b[j]
// Layout    x [N, features], w [classes, features], b [classes], y [N, classes], all f32
// GEMM      gemm_m = N, gemm_n = classes, gemm_k = features
// Mapping   conv2d_tap_gemm.cuh; a batch and a hundred classes make few tiles, so features are split over blockIdx.z into a workspace
//           [splits][N][classes]; the second kernel adds the parts, then the bias
// Cost      2*out_c flop per element of src; DRAM floor = bytes(src) + bytes(weights) + bytes(addend) + bytes(out). Each part
//           of a split besides once out and in
// Requires  any shape; grid = (row tiles * column tiles, 1, splits) for the first kernel, ceil(columns of split_sum.cuh /
//           those of a block) for the second
// Numerics  each part one ascending sum, then the parts in the order of totals.cuh, then the bias; no atomics, repeatable
// Reference LinearFprop::cpu in src/ops/linear.rs
#include "conv2d_tap_gemm.cuh"
#include "split_sum.cuh"

KERNEL(linear_fprop_f32, Conv2dArgs, 256) { tap_gemm::run<float, Pass::kFprop>(args); }
KERNEL(linear_fprop_bias_f32, SplitSumArgs, 256) { split_sum<true>(args); }
