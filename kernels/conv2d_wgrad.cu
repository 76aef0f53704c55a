// conv2d_wgrad: the gradient of a convolution's filters, as implicit GEMM
// Math      dw[k,r,s,c] = sum_npq dy[n,p,q,k] * x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c]
// Layout    x NHWC, dy NPQK, both f32 or both bf16; dw KRSC f32; the rows named tf32 take f32 and round it to TF32
// GEMM      gemm_m = K, gemm_n = R*S*C, gemm_k = N*P*Q
// Mapping   conv2d_wgrad_gemm.cuh on CUDA cores, conv2d_wgrad_mma.cuh on tensor cores. dw is small and gemm_k long, so
//           gemm_k is split over blocks; conv2d_wgrad_split_sum adds their results
// Cost      2*r*s*c flop per element of dy; DRAM floor = bytes(x) + bytes(dy) + bytes(dw). Each part of a split besides
//           once out and in
// Tuned for tile128x128: N128 16x16 C128 K128 3x3 s1: 9 tiles times 29 splits; tile64x128: 64 filters; tile64x64: layers of few
//           pixels
// Requires  per row of VARIANTS in src/ops/conv2d/variants.rs; the rows without a tile take anything
// Numerics  each part one ascending sum over pixels, then the parts as in totals.cuh; the split depends on the shape alone;
//           no atomics, repeatable
// Reference Conv2dWgrad::cpu in src/ops/conv2d
#include "conv2d_wgrad_gemm.cuh"
#include "conv2d_wgrad_mma.cuh"
#include "split_sum.cuh"

KERNEL(conv2d_wgrad_f32, Conv2dWgradArgs, 256) { wgrad_gemm::run<float>(args); }
KERNEL(conv2d_wgrad_bf16, Conv2dWgradArgs, 256) { wgrad_gemm::run<bf16>(args); }
KERNEL(conv2d_wgrad_tile128x128_bf16, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile128x128>(args); }
KERNEL(conv2d_wgrad_tile64x128_bf16, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile64x128>(args); }
KERNEL(conv2d_wgrad_tile64x64_bf16, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile64x64>(args); }
// Of f32, in TF32.
KERNEL(conv2d_wgrad_tile128x128_tf32, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile128x128Tf32>(args); }
KERNEL(conv2d_wgrad_tile64x128_tf32, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile64x128Tf32>(args); }
KERNEL(conv2d_wgrad_tile64x64_tf32, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Tile64x64Tf32>(args); }
// On Hopper, by warp groups.
KERNEL(conv2d_wgrad_wgmma_tile128x128_bf16, Conv2dWgradArgs, 256, 2) { wgrad_mma::run<mma_tile::Groups128x128>(args); }
KERNEL(conv2d_wgrad_wgmma_tile64x128_bf16, Conv2dWgradArgs, 256, 2) { wgrad_mma::run<mma_tile::Groups64x128>(args); }
KERNEL(conv2d_wgrad_wgmma_tile64x64_bf16, Conv2dWgradArgs, 128) { wgrad_mma::run<mma_tile::Groups64x64>(args); }
KERNEL(conv2d_wgrad_split_sum, SplitSumArgs, 256) { split_sum<false>(args); }
