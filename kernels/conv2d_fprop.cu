// conv2d_fprop: y = cross-correlation of x with w, as implicit GEMM
// Math      y[n,p,q,k] = sum_rsc x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c] * w[k,r,s,c]; in inference with the batch
//           norm that follows, act((y - running_mean[k]) / sqrt(running_var[k] + eps) * gamma[k] + beta[k] [+ addend]);
//           in training, on tensor cores, partial statistics of y besides, which batch_norm_finalize adds up
// Layout    x NHWC, w KRSC, y NPQK, all f32 or all bf16; f32 accumulation; the rows named tf32 take f32 and round it to TF32
// GEMM      gemm_m = N*P*Q, gemm_n = K, gemm_k = R*S*C
// Mapping   conv2d_tap_gemm.cuh on CUDA cores, conv2d_tap_mma.cuh on tensor cores
// Cost      2*kernel_h*kernel_w*src_c flop per element of out; DRAM floor = bytes(src) + bytes(weights) + bytes(out)
// Tuned for tile128x128: N256 32x32 C128 K128 3x3 s1: 2048 tiles, 77 GFLOP, 134 MB; tile256x64: 64 channels; the smaller:
//           layers of fewer tiles; 1x1: filters of one tap, whose pixels are read once
// Requires  per row of VARIANTS in src/ops/conv2d/variants.rs; the rows without a tile take anything
// Numerics  one sum over gemm_k per output, in the order that the headers say, no atomics, repeatable
// Reference Conv2dFprop::cpu and Conv2dBatchNorm::cpu in src/ops/conv2d
#include "conv2d_tap_gemm.cuh"
#include "conv2d_tap_mma.cuh"

KERNEL(conv2d_fprop_f32, Conv2dArgs, 256) { tap_gemm::run<float, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_bf16, Conv2dArgs, 256) { tap_gemm::run<bf16, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_tile256x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile256x64, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_1x1_tile256x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile256x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_tile128x128_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x128, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_1x1_tile128x128_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile128x128, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_tile128x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x64BesideL1, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_1x1_tile128x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile128x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_tile64x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile64x64BesideL1, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_1x1_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile64x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
// Of f32, in TF32.
KERNEL(conv2d_fprop_tile128x128_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x128Tf32, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_tile128x64_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x64BesideL1Tf32, Pass::kFprop>(args); }
KERNEL(conv2d_fprop_tile64x64_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile64x64BesideL1Tf32, Pass::kFprop>(args); }
// On Hopper, by warp groups.
KERNEL(conv2d_fprop_wgmma_tile256x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups256x64, Pass::kFprop>(args);
}
KERNEL(conv2d_fprop_1x1_wgmma_tile256x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups256x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_wgmma_tile128x128_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x128, Pass::kFprop>(args);
}
KERNEL(conv2d_fprop_1x1_wgmma_tile128x128_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x128, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_wgmma_tile128x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x64BesideL1, Pass::kFprop>(args);
}
KERNEL(conv2d_fprop_1x1_wgmma_tile128x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_fprop_wgmma_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Groups64x64BesideL1, Pass::kFprop>(args);
}
KERNEL(conv2d_fprop_1x1_wgmma_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Groups64x64, Pass::kFprop, tap_mma::Taps::kOne>(args);
}
