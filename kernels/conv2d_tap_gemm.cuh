// fprop and dgrad as implicit GEMM on the CUDA cores: any shape, f32 arithmetic, storage f32 or bf16.
//
// GEMM      gemm_m = output positions of a class, gemm_n = output channels, gemm_k = taps * source channels
// Mapping   block -> 64x64 tile of one class; thread -> 4x4 outputs; k-tiles of 16 gemm_k positions through two shared
//           buffers (17 KiB), the next k-tile being in registers while one is multiplied
//           grid = (row tiles * column tiles, classes, splits of gemm_k); column tiles of the same rows are neighbours
// Requires  fewer than 2^30 pixels in either image and positions of gemm_k, which are counted in int32_t
// Numerics  each output is one sum in ascending gemm_k (per split), fused multiply-adds; no atomics, repeatable
#pragma once

#include "conv2d_taps.cuh"

namespace tap_gemm {

// Edge of the square tile of a block.
FOR_RUST constexpr int kTile = 64;
// Positions of gemm_k that a block takes at once.
FOR_RUST constexpr int kTileK = 16;
constexpr int kThreads = 256;
// Elements of each operand that a thread stages per k-tile, and the edge of its square of outputs.
constexpr int kPerThread = kTile * kTileK / kThreads;
constexpr int kRowsApart = kThreads / kTileK;
// Four floats more keep rows 16-byte aligned and spread the staging writes over the banks.
constexpr int kPitch = kTile + 4;

struct alignas(16) Buffer {
    float at[kTileK][kPitch];
};

// The source pixels under this thread's rows: position `threadIdx.x % kTileK` of a k-tile for rows kRowsApart apart.
template <class T>
struct SourceGather {
    const T* image[kPerThread];
    int32_t h[kPerThread], w[kPerThread];
    Coord tap, step;
    Extents extents;

    __device__ SourceGather(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first, int32_t num_rows,
                            int32_t k_first) {
        const int32_t k = static_cast<int32_t>(threadIdx.x) % kTileK;
        const int64_t image_elems = static_cast<int64_t>(a.src_h) * a.src_w * a.src_c;
        extents = tap_extents(plane, a.src_c);
        tap = coord_of(k_first + k, extents);
        step = coord_of(kTileK, extents);
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const int32_t row = row_first + static_cast<int32_t>(threadIdx.x) / kTileK + i * kRowsApart;
            const Coord pixel = coord_of(min(row, num_rows - 1), pixel_extents(plane));
            image[i] = static_cast<const T*>(a.src) + pixel.hi * image_elems;
            h[i] = row < num_rows ? pixel.mid * plane.h.src_step + plane.h.src_first : kOutside;
            w[i] = pixel.lo * plane.w.src_step + plane.w.src_first;
        }
    }

    __device__ __forceinline__ void load(const Conv2dArgs& a, bool in_range, float (&values)[kPerThread]) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const int32_t src_h = h[i] + tap.hi, src_w = w[i] + tap.mid;
            const bool valid = in_range && within(src_h, a.src_h) && within(src_w, a.src_w);
            values[i] = valid ? static_cast<float>(
                                    image[i][(static_cast<int64_t>(src_h) * a.src_w + src_w) * a.src_c + tap.lo])
                              : 0.0f;
        }
        advance(tap, step, extents);
    }

    static __device__ __forceinline__ void store(Buffer& tile, const float (&values)[kPerThread]) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            tile.at[threadIdx.x % kTileK][threadIdx.x / kTileK + i * kRowsApart] = values[i];
        }
    }
};

// The filters of an fprop: gemm_k positions of one filter are contiguous, so lanes run along them.
template <class T, Pass kPass>
struct WeightGather {
    const T* weights;
    int32_t col, gemm_k;

    __device__ WeightGather(const Conv2dArgs& a, const TapPlane&, int32_t col_first, int32_t k_first) {
        gemm_k = a.kernel_h * a.kernel_w * a.src_c;
        col = col_first + static_cast<int32_t>(threadIdx.x) / kTileK;
        weights = static_cast<const T*>(a.weights) + static_cast<int64_t>(col) * gemm_k + k_first + threadIdx.x % kTileK;
    }

    __device__ __forceinline__ void load(const Conv2dArgs& a, int32_t k_left, float (&values)[kPerThread]) {
        const bool in_range = static_cast<int32_t>(threadIdx.x) % kTileK < k_left;
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const bool valid = in_range && col + i * kRowsApart < a.out_c;
            values[i] = valid ? static_cast<float>(weights[static_cast<int64_t>(i) * kRowsApart * gemm_k]) : 0.0f;
        }
        weights += kTileK;
    }

    static __device__ __forceinline__ void store(Buffer& tile, const float (&values)[kPerThread]) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            tile.at[threadIdx.x % kTileK][threadIdx.x / kTileK + i * kRowsApart] = values[i];
        }
    }
};

// The filters of a dgrad: input channels are contiguous, so lanes run along the columns of the tile.
template <class T>
struct WeightGather<T, Pass::kDgrad> {
    const T* weights;
    int32_t col;
    TapPlane plane;
    Coord tap, step;
    Extents extents;

    __device__ WeightGather(const Conv2dArgs& a, const TapPlane& taps, int32_t col_first, int32_t k_first)
        : plane(taps) {
        col = col_first + static_cast<int32_t>(threadIdx.x) % kRowsApart;
        weights = static_cast<const T*>(a.weights);
        extents = tap_extents(plane, a.src_c);
        tap = coord_of(k_first + static_cast<int32_t>(threadIdx.x) / kRowsApart, extents);
        step = coord_of(kTileK, extents);
    }

    __device__ __forceinline__ void load(const Conv2dArgs& a, int32_t k_left, float (&values)[kPerThread]) {
        const bool in_range = static_cast<int32_t>(threadIdx.x) / kRowsApart < k_left;
        const int32_t r = plane.h.weight_first + tap.hi * plane.h.weight_step;
        const int32_t s = plane.w.weight_first + tap.mid * plane.w.weight_step;
        const int64_t line = (static_cast<int64_t>(tap.lo) * a.kernel_h + r) * a.kernel_w + s;
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const bool valid = in_range && col + i * kRowsApart < a.out_c;
            values[i] = valid ? static_cast<float>(weights[line * a.out_c + col + i * kRowsApart]) : 0.0f;
        }
        advance(tap, step, extents);
    }

    static __device__ __forceinline__ void store(Buffer& tile, const float (&values)[kPerThread]) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            tile.at[threadIdx.x / kRowsApart][threadIdx.x % kRowsApart + i * kRowsApart] = values[i];
        }
    }
};

// acc += the product of one k-tile; this thread's outputs start at (row, col) of the tile.
static __device__ __forceinline__ void multiply(const Buffer& rows, const Buffer& cols, int row, int col,
                                                float (&acc)[kPerThread][kPerThread]) {
#pragma unroll
    for (int k = 0; k < kTileK; k++) {
        const Vec<float, kPerThread> a = load_vec<kPerThread>(&rows.at[k][row]);
        const Vec<float, kPerThread> b = load_vec<kPerThread>(&cols.at[k][col]);
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
#pragma unroll
            for (int j = 0; j < kPerThread; j++) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
        }
    }
}

// Stores `finish(column of this thread, its sum, the addend)`.
template <class T, class Finish>
static __device__ __forceinline__ void write(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                             int32_t num_rows, int32_t col_first,
                                             const float (&acc)[kPerThread][kPerThread], const Finish& finish) {
    const int64_t out_elems = static_cast<int64_t>(a.batch) * a.out_h * a.out_w * a.out_c;
    T* out = static_cast<T*>(a.out) + blockIdx.z * out_elems;
    const T* addend = static_cast<const T*>(a.addend);
    for (int i = 0; i < kPerThread; i++) {
        if (row_first + i >= num_rows) break;
        const int64_t offset = out_offset(a, plane, row_first + i);
#pragma unroll
        for (int j = 0; j < kPerThread; j++) {
            const int32_t col = col_first + j;
            if (col >= a.out_c) break;
            const float before = addend == nullptr ? 0.0f : static_cast<float>(addend[offset + col]);
            out[offset + col] = static_cast<T>(finish(j, acc[i][j], before));
        }
    }
}

template <class T, Pass kPass>
static __device__ void run(const Conv2dArgs& a) {
    __shared__ Buffer source_tile[2], weight_tile[2];
    const TapPlane plane = tap_plane<kPass>(a, static_cast<int32_t>(blockIdx.y));
    const int32_t num_rows = a.batch * plane.num_out();
    const int32_t gemm_k = plane.num_taps() * a.src_c;
    const int32_t col_tiles = ceil_div(a.out_c, kTile);
    const int32_t row_first = static_cast<int32_t>(blockIdx.x) / col_tiles * kTile;
    const int32_t col_first = static_cast<int32_t>(blockIdx.x) % col_tiles * kTile;
    if (row_first >= num_rows) return;  // the grid is made for the class with most positions
    const int32_t k_first = static_cast<int32_t>(blockIdx.z) * a.k_per_split;
    const int32_t k_end = min(gemm_k, k_first + a.k_per_split);

    SourceGather<T> sources(a, plane, row_first, num_rows, k_first);
    WeightGather<T, kPass> weights(a, plane, col_first, k_first);
    const int32_t k_source = static_cast<int32_t>(threadIdx.x) % kTileK;
    const int row = static_cast<int>(threadIdx.x) / kRowsApart * kPerThread;
    const int col = static_cast<int>(threadIdx.x) % kRowsApart * kPerThread;
    float acc[kPerThread][kPerThread] = {};
    float next_source[kPerThread], next_weight[kPerThread];
    int buffer = 0;
    if (k_first < k_end) {
        sources.load(a, k_first + k_source < k_end, next_source);
        weights.load(a, k_end - k_first, next_weight);
    }
    for (int32_t k = k_first; k < k_end; k += kTileK) {
        SourceGather<T>::store(source_tile[buffer], next_source);
        WeightGather<T, kPass>::store(weight_tile[buffer], next_weight);
        // One barrier a k-tile is enough: a buffer is written again only after the barrier that follows its last reads.
        __syncthreads();
        if (k + kTileK < k_end) {
            sources.load(a, k + kTileK + k_source < k_end, next_source);
            weights.load(a, k_end - k - kTileK, next_weight);
        }
        multiply(source_tile[buffer], weight_tile[buffer], row, col, acc);
        buffer ^= 1;
    }
    finish_sums<kPass, kPerThread>(a, col_first + col, [&](const auto& finish) {
        write<T>(a, plane, row_first + row, num_rows, col_first + col, acc, finish);
    });
}

}  // namespace tap_gemm
