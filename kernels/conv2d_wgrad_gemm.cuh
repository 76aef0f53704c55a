// wgrad as implicit GEMM on the CUDA cores: any shape, f32 arithmetic, operands f32 or bf16, dw f32.
//
// GEMM      gemm_m = K, gemm_n = R*S*C, gemm_k = N*P*Q
// Mapping   block -> 64x64 tile of dw over one split of gemm_k; thread -> 4x4 outputs; k-tiles of 16 pixels through two
//           shared buffers (17 KiB), the next k-tile being in registers while one is multiplied
//           grid = (row tiles * column tiles, splits)
// Requires  counted in int32_t: fewer than 2^30 pixels in either image and filter columns, fewer than 2^31 elements of x in
//           as many rows as the filter and a tile behind it have
// Numerics  each part is one sum in ascending pixels; the parts are added in their order; no atomics, repeatable
#pragma once

#include "conv2d_tap_gemm.cuh"
#include "conv2d_wgrad_args.cuh"

namespace wgrad_gemm {

using tap_gemm::Buffer;
using tap_gemm::kPerThread;
using tap_gemm::kTileK;
using tap_gemm::kTile;
// Neighbouring lanes load neighbouring channels of one pixel.
constexpr int kLanes = tap_gemm::kThreads / kTileK;

static __device__ __forceinline__ int32_t lane() { return static_cast<int32_t>(threadIdx.x) % kLanes; }
static __device__ __forceinline__ int32_t line() { return static_cast<int32_t>(threadIdx.x) / kLanes; }

template <class T>
struct PixelGather {
    const T* x;
    const T* dy;
    int32_t filter;
    int32_t tap_h[kPerThread], tap_w[kPerThread];
    int32_t offset[kPerThread];  // in elements, from the first channel of the pixel at (p * stride_h, q * stride_w)
    Coord pixel, step;
    Extents extents;

    __device__ PixelGather(const Conv2dWgradArgs& a, int32_t row_first, int32_t col_first, int32_t pixel_first) {
        x = static_cast<const T*>(a.x);
        filter = row_first + lane();
        dy = static_cast<const T*>(a.dy) + static_cast<int64_t>(pixel_first + line()) * a.k + filter;
        extents = {a.q, a.p};
        pixel = coord_of(pixel_first + line(), extents);
        step = coord_of(kTileK, extents);
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const int32_t col = col_first + lane() + i * kLanes;
            const Coord tap = coord_of(col, {a.c, a.s});
            tap_w[i] = tap.mid - a.pad_w;
            offset[i] = ((tap.hi - a.pad_h) * a.w + tap_w[i]) * a.c + tap.lo;
            tap_h[i] = col < a.r * a.s * a.c ? tap.hi - a.pad_h : kOutside;
        }
    }

    __device__ __forceinline__ void load(const Conv2dWgradArgs& a, int32_t pixels_left, float (&dys)[kPerThread],
                                         float (&xs)[kPerThread]) {
        const bool in_range = line() < pixels_left;
        const int32_t first_h = pixel.mid * a.stride_h, first_w = pixel.lo * a.stride_w;
        const T* from = x + static_cast<int64_t>((pixel.hi * a.h + first_h) * a.w + first_w) * a.c;
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            dys[i] = in_range && filter + i * kLanes < a.k ? static_cast<float>(dy[i * kLanes]) : 0.0f;
            const bool valid = in_range && within(first_h + tap_h[i], a.h) && within(first_w + tap_w[i], a.w);
            xs[i] = valid ? static_cast<float>(from[offset[i]]) : 0.0f;
        }
        dy += static_cast<int64_t>(kTileK) * a.k;
        advance(pixel, step, extents);
    }

    static __device__ __forceinline__ void store(Buffer& tile, const float (&values)[kPerThread]) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) tile.at[line()][lane() + i * kLanes] = values[i];
    }
};

template <class T>
static __device__ void run(const Conv2dWgradArgs& a) {
    __shared__ Buffer dy_tile[2], x_tile[2];
    const int32_t gemm_n = a.r * a.s * a.c;
    const int32_t col_tiles = ceil_div(gemm_n, kTile);
    const int32_t row_first = static_cast<int32_t>(blockIdx.x) / col_tiles * kTile;
    const int32_t col_first = static_cast<int32_t>(blockIdx.x) % col_tiles * kTile;
    const int32_t pixel_first = static_cast<int32_t>(blockIdx.y) * a.pixels_per_split;
    const int32_t pixel_end = min(a.n * a.p * a.q, pixel_first + a.pixels_per_split);

    PixelGather<T> gather(a, row_first, col_first, pixel_first);
    const int32_t row = line() * kPerThread, col = lane() * kPerThread;
    float acc[kPerThread][kPerThread] = {};
    float next_dy[kPerThread], next_x[kPerThread];
    int buffer = 0;
    gather.load(a, pixel_end - pixel_first, next_dy, next_x);
    for (int32_t pixel = pixel_first; pixel < pixel_end; pixel += kTileK) {
        PixelGather<T>::store(dy_tile[buffer], next_dy);
        PixelGather<T>::store(x_tile[buffer], next_x);
        __syncthreads();
        if (pixel + kTileK < pixel_end) gather.load(a, pixel_end - pixel - kTileK, next_dy, next_x);
        tap_gemm::multiply(dy_tile[buffer], x_tile[buffer], row, col, acc);
        buffer ^= 1;
    }

    float* dw = static_cast<float*>(a.dw) + static_cast<int64_t>(blockIdx.y) * a.k * gemm_n;
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
#pragma unroll
        for (int j = 0; j < kPerThread; j++) {
            if (row_first + row + i < a.k && col_first + col + j < gemm_n) {
                dw[static_cast<int64_t>(row_first + row + i) * gemm_n + col_first + col + j] = acc[i][j];
            }
        }
    }
}

}  // namespace wgrad_gemm
