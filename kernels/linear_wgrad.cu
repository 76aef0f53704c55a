// linear_wgrad: dw = dy^T x and db = the sum of dy over the batch
// Math      dw[j,i] = sum_n dy[n,j] * x[n,i]; db[j] = sum_n dy[n,j]
// Layout    x [N, features], dy [N, classes], dw [classes, features], db [classes], all f32
// GEMM      gemm_m = classes, gemm_n = features, gemm_k = N
// Mapping   dw as the wgrad of a 1x1 convolution (conv2d_wgrad_gemm.cuh). db: as in totals.cuh, a column a class, an
//           addend a sample
// Cost      2*n flop per element of dw, num_rows flop per element of db; DRAM floor = bytes(x) + bytes(dy) + bytes(dw)
// Requires  any shape; grid = (row tiles * column tiles, 1) for dw, ceil(classes / columns) for db
// Numerics  dw: one ascending sum over the batch. db: in the order of totals.cuh, which the shape decides. No atomics,
//           repeatable
// Reference LinearWgrad::cpu in src/ops/linear.rs
#include "conv2d_wgrad_gemm.cuh"
#include "totals.cuh"

struct LinearDbArgs {
    const void* dy;
    void* db;
    uint64_t num_classes;
    uint32_t num_rows, columns;
};

static __device__ __forceinline__ void linear_db(const LinearDbArgs& a) {
    const TotalTile tile(a.columns);
    const bool is_inside = tile.column < a.num_classes;
    const float* dy = static_cast<const float*>(a.dy) + tile.column;
    float sums[1] = {};
    tile.for_each_addend(
        is_inside ? a.num_rows : 0, [&](uint32_t row) { return dy[row * a.num_classes]; }, 0.0f,
        [&](uint32_t, float value) { sums[0] += value; });
    tile.add_rows(sums);
    if (tile.row == 0 && is_inside) static_cast<float*>(a.db)[tile.column] = sums[0];
}

KERNEL(linear_wgrad_f32, Conv2dWgradArgs, 256) { wgrad_gemm::run<float>(args); }
KERNEL(linear_wgrad_db_f32, LinearDbArgs, 256) { linear_db(args); }
