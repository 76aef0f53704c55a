// conv2d_dgrad: the gradient of a convolution's input, as implicit GEMM
// Math      dx[n,h,w,c] = sum_rsk dy[n, (h+pad_h-r)/stride_h, (w+pad_w-s)/stride_w, k] * w[k,r,s,c] [+ addend[n,h,w,c]]
//           over the r, s for which the divisions leave no remainder and the result lies in dy; on tensor cores also behind
//           the mask of a ReLU, with partial sums of the batch norm before it, which batch_norm_bwd_finalize adds up
// Layout    dy NPQK, w KRSC, dx and addend NHWC, all f32 or all bf16; f32 accumulation; the rows named tf32 take f32 and
//           round it to TF32
// GEMM      for each of the stride_h*stride_w classes of (h, w): gemm_m = N * positions of the class, gemm_n = C,
//           gemm_k = taps of the class * K. 3x3 with stride 2: 1, 2, 2 and 4 taps. A class without taps writes zeros, or
//           the addend
// Mapping   conv2d_tap_gemm.cuh on CUDA cores, conv2d_tap_mma.cuh on tensor cores; blockIdx.y = class. The filters are
//           read as they lie, C along the lines of shared memory: `ldmatrix.trans` costs what `ldmatrix` does, and a
//           transposed copy would cost a launch and a workspace
// Cost      2*kernel_h*kernel_w*out_c flop per element of src; DRAM floor = bytes(src) + bytes(weights) + bytes(addend)
//           + bytes(x) + bytes(y) + bytes(out)
// Tuned for as conv2d_fprop.cu
// Requires  per row of VARIANTS in src/ops/conv2d/variants.rs; the rows without a tile take anything
// Numerics  one sum over gemm_k per output, in the order that the headers say, then the addend, rounded once; no atomics, repeatable
// Reference Conv2dDgrad::cpu in src/ops/conv2d
#include "conv2d_tap_gemm.cuh"
#include "conv2d_tap_mma.cuh"

KERNEL(conv2d_dgrad_f32, Conv2dArgs, 256) { tap_gemm::run<float, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_bf16, Conv2dArgs, 256) { tap_gemm::run<bf16, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_tile256x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile256x64, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_1x1_tile256x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile256x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_tile128x128_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x128, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_1x1_tile128x128_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile128x128, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_tile128x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x64BesideL1, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_1x1_tile128x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile128x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_tile64x64_bf16, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile64x64BesideL1, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_1x1_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Tile64x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
// Of f32, in TF32.
KERNEL(conv2d_dgrad_tile128x128_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x128Tf32, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_tile128x64_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile128x64BesideL1Tf32, Pass::kDgrad>(args); }
KERNEL(conv2d_dgrad_tile64x64_tf32, Conv2dArgs, 128) { tap_mma::run<mma_tile::Tile64x64BesideL1Tf32, Pass::kDgrad>(args); }
// On Hopper, by warp groups.
KERNEL(conv2d_dgrad_wgmma_tile256x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups256x64, Pass::kDgrad>(args);
}
KERNEL(conv2d_dgrad_1x1_wgmma_tile256x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups256x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_wgmma_tile128x128_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x128, Pass::kDgrad>(args);
}
KERNEL(conv2d_dgrad_1x1_wgmma_tile128x128_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x128, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_wgmma_tile128x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x64BesideL1, Pass::kDgrad>(args);
}
KERNEL(conv2d_dgrad_1x1_wgmma_tile128x64_bf16, Conv2dArgs, 256, 2) {
    tap_mma::run<mma_tile::Groups128x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
KERNEL(conv2d_dgrad_wgmma_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Groups64x64BesideL1, Pass::kDgrad>(args);
}
KERNEL(conv2d_dgrad_1x1_wgmma_tile64x64_bf16, Conv2dArgs, 128) {
    tap_mma::run<mma_tile::Groups64x64, Pass::kDgrad, tap_mma::Taps::kOne>(args);
}
