// linear_wgrad: dw = dy^T x and db = the sum of dy over the batch
// Math      dw[j,i] = sum_n dy[n,j] * x[n,i]; db[j] = sum_n dy[n,j]
// Layout    x [N, features], dy [N, classes], dw [classes, features], db [classes], all f32
// GEMM      gemm_m = classes, gemm_n = features, gemm_k = N
// Mapping   dw as the wgrad of a 1x1 convolution (conv2d_wgrad_gemm.cuh). db: block -> 32 classes, warp -> every eighth
//           sample, lane -> class
// Cost      2*n flop per element of dw, num_rows flop per element of db; DRAM floor = bytes(x) + bytes(dy) + bytes(dw)
// Requires  any shape; grid = (row tiles * column tiles, 1) for dw, ceil(classes / 32) for db
// Numerics  dw: one ascending sum over the batch. db: each warp adds ascending samples, then the warps are added in their order; no atomics, repeatable
// Reference LinearWgrad::cpu in src/ops/linear.rs
#include "conv2d_wgrad_gemm.cuh"

struct LinearDbArgs {
    const void* dy;
    void* db;
    uint64_t num_rows;
    uint64_t num_classes;
};

static __device__ __forceinline__ void linear_db(const LinearDbArgs& a) {
    constexpr uint32_t kWarps = 256 / kWarpThreads;
    __shared__ float partials[kWarps][kWarpThreads];
    const uint32_t lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
    const uint64_t column = static_cast<uint64_t>(blockIdx.x) * kWarpThreads + lane;
    float sum = 0.0f;
    if (column < a.num_classes) {
        const float* dy = static_cast<const float*>(a.dy) + column;
#pragma unroll 4
        for (uint64_t row = warp; row < a.num_rows; row += kWarps) sum += dy[row * a.num_classes];
    }
    partials[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= a.num_classes) return;
    for (uint32_t other = 1; other < kWarps; other++) sum += partials[other][lane];
    static_cast<float*>(a.db)[column] = sum;
}

KERNEL(linear_wgrad_f32, Conv2dWgradArgs, 256) { wgrad_gemm::run<float>(args); }
KERNEL(linear_wgrad_db_f32, LinearDbArgs, 256) { linear_db(args); }
