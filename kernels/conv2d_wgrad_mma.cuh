// wgrad as implicit GEMM on tensor cores: bf16 operands, f32 accumulation, dw f32.
//
// GEMM      gemm_m = K, gemm_n = R*S*C, gemm_k = N*P*Q
// Mapping   block -> tile of dw over one split of gemm_k; k-tiles of 64 pixels of dy and x come by 16-byte cp.async as they
//           lie in memory, channels along the lines; `ldmatrix` transposes both. A thread keeps its filters and its
//           (r, s, c) and walks over pixels
//           grid = (row tiles * column tiles, splits); shared: 3 stages of 128 bytes per row and column of the tile
// Requires  C and K multiples of 8, 16-byte aligned tensors; fewer than 2^30 pixels in either image and filter columns, which
//           are counted in int32_t
// Numerics  each part is one sum over pixels, 16 at a time in ascending order; the parts are added by `split_sum` in a
//           fixed order; no atomics, repeatable
#pragma once

#include "conv2d_wgrad_args.cuh"
#include "mma_tile.cuh"

namespace wgrad_mma {

using mma_tile::kChunkElems;
using mma_tile::kDepth;

template <class T>
struct DyGather {
    using Lines = mma_tile::MnMajor<T::kRows>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = kDepth / kApart;

    const bf16* dy;
    int32_t k, pixels_left;
    bool has_filter;

    __device__ __forceinline__ DyGather(const Conv2dWgradArgs& a, int32_t row_first, int32_t pixel_first,
                                        int32_t pixel_end)
        : k(a.k) {
        const int32_t pixel = pixel_first + static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        const int32_t filter = row_first + static_cast<int32_t>(threadIdx.x) % Lines::kChunks * kChunkElems;
        dy = static_cast<const bf16*>(a.dy) + static_cast<int64_t>(pixel) * k + filter;
        pixels_left = pixel_end - pixel;
        has_filter = filter < k;
    }

    __device__ __forceinline__ void start(bf16* tile) {
        const int line = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::offset(line + i * kApart, chunk), dy + static_cast<int64_t>(i * kApart) * k,
                        has_filter && i * kApart < pixels_left);
        }
        dy += static_cast<int64_t>(kDepth) * k;
        pixels_left -= kDepth;
    }
};

template <class T>
struct XGather {
    using Lines = mma_tile::MnMajor<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = kDepth / kApart;

    const bf16* x;
    int32_t h, w, c, stride_h, stride_w;
    int32_t tap_h, tap_w, pixels_left;
    Coord pixel, step;
    Extents extents;

    __device__ __forceinline__ XGather(const Conv2dWgradArgs& a, int32_t col_first, int32_t pixel_first,
                                       int32_t pixel_end)
        : h(a.h), w(a.w), c(a.c), stride_h(a.stride_h), stride_w(a.stride_w) {
        const int32_t line = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        const int32_t col = col_first + static_cast<int32_t>(threadIdx.x) % Lines::kChunks * kChunkElems;
        const Coord tap = coord_of(col, {c, a.s});
        x = static_cast<const bf16*>(a.x) + tap.lo;
        tap_h = tap.hi - a.pad_h;
        tap_w = tap.mid - a.pad_w;
        extents = {a.q, a.p};
        pixel = coord_of(pixel_first + line, extents);
        step = coord_of(kApart, extents);
        // A column behind the last has no pixels.
        pixels_left = tap.hi < a.r ? pixel_end - pixel_first - line : 0;
    }

    __device__ __forceinline__ void start(bf16* tile) {
        const int line = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int32_t src_h = pixel.mid * stride_h + tap_h, src_w = pixel.lo * stride_w + tap_w;
            const bool valid = i * kApart < pixels_left && within(src_h, h) && within(src_w, w);
            const int32_t position = (pixel.hi * h + src_h) * w + src_w;
            cp_async_16(tile + Lines::offset(line + i * kApart, chunk), x + static_cast<int64_t>(position) * c, valid);
            advance(pixel, step, extents);
        }
        pixels_left -= kDepth;
    }
};

template <class T>
struct Gather {
    DyGather<T> dy;
    XGather<T> x;

    __device__ __forceinline__ void start(bf16* dy_tile, bf16* x_tile) {
        dy.start(dy_tile);
        x.start(x_tile);
    }
};

template <class T>
static __device__ __forceinline__ void run(const Conv2dWgradArgs& a) {
    const int32_t gemm_n = a.r * a.s * a.c;
    const int32_t col_tiles = ceil_div(gemm_n, T::kCols);
    const int32_t row_first = static_cast<int32_t>(blockIdx.x) / col_tiles * T::kRows;
    const int32_t col_first = static_cast<int32_t>(blockIdx.x) % col_tiles * T::kCols;
    const int32_t pixel_first = static_cast<int32_t>(blockIdx.y) * a.pixels_per_split;
    const int32_t pixel_end = min(a.n * a.p * a.q, pixel_first + a.pixels_per_split);
    typename T::Acc acc;
    Gather<T> gather = {{a, row_first, pixel_first, pixel_end}, {a, col_first, pixel_first, pixel_end}};
    mma_tile::multiply<T, typename DyGather<T>::Lines, typename XGather<T>::Lines>(
        gather, ceil_div(pixel_end - pixel_first, kDepth), acc);

    // Four lanes write 32 neighbouring bytes, a whole sector: no detour through shared memory.
    float* dw = static_cast<float*>(a.dw) + static_cast<int64_t>(blockIdx.y) * a.k * gemm_n;
    mma_tile::for_each_pair<T>(acc, [&](int row, int col, float first, float second) {
        if (row_first + row < a.k && col_first + col < gemm_n) {
            float* to = dw + static_cast<int64_t>(row_first + row) * gemm_n + col_first + col;
            store_vec(to, Vec<float, 2>{first, second});
        }
    });
}

}  // namespace wgrad_mma
