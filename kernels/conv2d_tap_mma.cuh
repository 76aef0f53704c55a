// fprop and dgrad as implicit GEMM on tensor cores: bf16 storage, f32 accumulation.
//
// GEMM      gemm_m = output positions of a class, gemm_n = output channels, gemm_k = taps * source channels
// Mapping   block -> tile of one class; warp -> 64x64, 64x32 or 32x32 of it; thread -> m16n8k16 fragments. K-tiles of 64
//           gemm_k positions come by 16-byte cp.async; what lies outside the image is filled with zeros on the way
//           grid = (row tiles * column tiles, classes); column tiles of the same rows are neighbours
//           shared: 3 stages of 128 bytes per row and column of the tile; at the end the f32 results
// Requires  channels of both images multiples of 8, 16-byte aligned tensors; counted in int32_t, and so below 2^31: chunks of
//           8 channels of the source, elements of the source in as many rows as the filter has and 8 more; below 2^30:
//           pixels in either image, positions of gemm_k
// Numerics  each output is one sum over gemm_k, 16 positions at a time in ascending order, rounded to bf16 once, after
//           batch norm and addend; no atomics, repeatable
#pragma once

#include "conv2d_taps.cuh"
#include "mma_tile.cuh"

namespace tap_mma {

using mma_tile::kChunkElems;
using mma_tile::kDepth;

// Rows of the tile from the source image. Thread -> one chunk of the k-tile, for rows kApart apart.
template <class T>
struct SourceGather {
    using Lines = mma_tile::KMajor<T::kRows>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kRows / kApart;

    const bf16* src;
    int32_t src_h, src_w, src_c, num_taps_h;
    int32_t origin[kCopies];  // in chunks, of tap (0, 0), channel 0; may lie outside
    int32_t h[kCopies], w[kCopies];
    Coord tap, step;
    Extents extents;

    __device__ __forceinline__ SourceGather(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                            int32_t num_rows)
        : src(static_cast<const bf16*>(a.src)),
          src_h(a.src_h),
          src_w(a.src_w),
          src_c(a.src_c),
          num_taps_h(plane.h.num_taps) {
        extents = tap_extents(plane, src_c);
        tap = coord_of(static_cast<int32_t>(threadIdx.x) % Lines::kChunks * kChunkElems, extents);
        step = coord_of(kDepth, extents);
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int32_t row = row_first + static_cast<int32_t>(threadIdx.x) / Lines::kChunks + i * kApart;
            const Coord pixel = coord_of(min(row, num_rows - 1), pixel_extents(plane));
            const int32_t first_h = pixel.mid * plane.h.src_step + plane.h.src_first;
            w[i] = pixel.lo * plane.w.src_step + plane.w.src_first;
            h[i] = row < num_rows ? first_h : kOutside;
            origin[i] = ((pixel.hi * src_h + first_h) * src_w + w[i]) * (src_c / kChunkElems);
        }
    }

    __device__ __forceinline__ void start(bf16* tile) {
        const int line = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
        const bool in_range = tap.hi < num_taps_h;
        const int32_t delta = ((tap.hi * src_w + tap.mid) * src_c + tap.lo) / kChunkElems;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const bool valid = in_range && within(h[i] + tap.hi, src_h) && within(w[i] + tap.mid, src_w);
            cp_async_16(tile + Lines::offset(line + i * kApart, chunk),
                        src + static_cast<int64_t>(origin[i] + delta) * kChunkElems, valid);
        }
        advance(tap, step, extents);
    }
};

// Columns of the tile from the filters of an fprop, whose gemm_k positions are contiguous.
template <class T, Pass kPass>
struct WeightGather {
    using Lines = mma_tile::KMajor<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kCols / kApart;

    const bf16* weights;
    int32_t k, gemm_k, cols_left;

    __device__ __forceinline__ WeightGather(const Conv2dArgs& a, const TapPlane& plane, int32_t col_first)
        : gemm_k(plane.num_taps() * a.src_c) {
        const int32_t col = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        k = static_cast<int32_t>(threadIdx.x) % Lines::kChunks * kChunkElems;
        weights = static_cast<const bf16*>(a.weights) + static_cast<int64_t>(col_first + col) * gemm_k;
        cols_left = a.out_c - col_first - col;
    }

    __device__ __forceinline__ void start(bf16* tile) {
        const int line = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::offset(line + i * kApart, chunk),
                        weights + k + static_cast<int64_t>(i * kApart) * gemm_k,
                        k < gemm_k && i * kApart < cols_left);
        }
        k += kDepth;
    }
};

// Columns of the tile from the filters of a dgrad, whose input channels are contiguous: lines of the stage are gemm_k
// positions, and each pass over the stage walks on by kApart of them.
template <class T>
struct WeightGather<T, Pass::kDgrad> {
    using Lines = mma_tile::MnMajor<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = kDepth / kApart;

    const bf16* weights;
    int32_t kernel_h, kernel_w, out_c;
    TapAxis axis_h, axis_w;
    bool has_col;
    Coord tap, step;
    Extents extents;

    __device__ __forceinline__ WeightGather(const Conv2dArgs& a, const TapPlane& plane, int32_t col_first)
        : kernel_h(a.kernel_h), kernel_w(a.kernel_w), out_c(a.out_c), axis_h(plane.h), axis_w(plane.w) {
        const int32_t col = col_first + static_cast<int32_t>(threadIdx.x) % Lines::kChunks * kChunkElems;
        has_col = col < out_c;
        weights = static_cast<const bf16*>(a.weights) + col;
        extents = tap_extents(plane, a.src_c);
        tap = coord_of(static_cast<int32_t>(threadIdx.x) / Lines::kChunks, extents);
        step = coord_of(kApart, extents);
    }

    __device__ __forceinline__ void start(bf16* tile) {
        const int line = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int32_t r = axis_h.weight_first + tap.hi * axis_h.weight_step;
            const int32_t s = axis_w.weight_first + tap.mid * axis_w.weight_step;
            const int64_t from = static_cast<int64_t>((tap.lo * kernel_h + r) * kernel_w + s) * out_c;
            cp_async_16(tile + Lines::offset(line + i * kApart, chunk), weights + from,
                        has_col && tap.hi < axis_h.num_taps);
            advance(tap, step, extents);
        }
    }
};

template <class T, Pass kPass>
struct Gather {
    SourceGather<T> sources;
    WeightGather<T, kPass> weights;

    __device__ __forceinline__ void start(bf16* source_tile, bf16* weight_tile) {
        sources.start(source_tile);
        weights.start(weight_tile);
    }
};

// Finishes and rounds the sums, eight neighbouring channels to a store. They pass through shared memory, because the lanes of
// a fragment hold only two.
template <class T, Pass kPass>
static __device__ __forceinline__ void write(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                             int32_t num_rows, int32_t col_first, const typename T::Acc& acc) {
    constexpr int kPitch = T::kCols + mma_tile::kResultPad;
    constexpr int kChunks = T::kCols / kChunkElems;
    float* results = dynamic_shared<float>();
    mma_tile::for_each_pair<T>(acc, [&](int row, int col, float first, float second) {
        store_vec(results + row * kPitch + col, Vec<float, 2>{first, second});
    });
    __syncthreads();
    const int chunk_col = static_cast<int>(threadIdx.x) % kChunks * kChunkElems;
    // A phase of shared memory serves eight lanes here, whose chunks span its banks twice: half of them read the other half
    // of their chunk first.
    const int first_half = static_cast<int>(threadIdx.x) / 4 % 2 * 4;
    if (col_first + chunk_col >= a.out_c) return;
    finish_sums<kPass, kChunkElems>(a, col_first + chunk_col, [&](const auto& finish) {
        const bf16* addend = static_cast<const bf16*>(a.addend);
        for (int row = static_cast<int>(threadIdx.x) / kChunks; row < T::kRows; row += T::kThreads / kChunks) {
            if (row_first + row >= num_rows) return;
            const int64_t to = out_offset(a, plane, row_first + row) + col_first + chunk_col;
            const float* result = results + row * kPitch + chunk_col;
            const Vec<float, 4> halves[2] = {load_vec<4>(result + first_half), load_vec<4>(result + (4 - first_half))};
            Vec<bf16, kChunkElems> before = {};
            if (addend != nullptr) before = load_vec<kChunkElems>(addend + to);
            Vec<bf16, kChunkElems> chunk;
#pragma unroll
            for (int i = 0; i < kChunkElems; i++) {
                const float sum = (i < 4) == (first_half == 0) ? halves[0][i % 4] : halves[1][i % 4];
                chunk[i] = bf16(finish(i, sum, static_cast<float>(before[i])));
            }
            store_vec(static_cast<bf16*>(a.out) + to, chunk);
        }
    });
}

template <class T, Pass kPass>
static __device__ __forceinline__ void run(const Conv2dArgs& a) {
    const TapPlane plane = tap_plane<kPass>(a, static_cast<int32_t>(blockIdx.y));
    const int32_t num_rows = a.batch * plane.num_out();
    const int32_t col_tiles = ceil_div(a.out_c, T::kCols);
    const int32_t row_first = static_cast<int32_t>(blockIdx.x) / col_tiles * T::kRows;
    const int32_t col_first = static_cast<int32_t>(blockIdx.x) % col_tiles * T::kCols;
    if (row_first >= num_rows) return;  // the grid is made for the class with most positions
    typename T::Acc acc;
    Gather<T, kPass> gather = {{a, plane, row_first, num_rows}, {a, plane, col_first}};
    const int32_t num_k_tiles = ceil_div(plane.num_taps() * a.src_c, kDepth);
    mma_tile::multiply<T, typename SourceGather<T>::Lines, typename WeightGather<T, kPass>::Lines>(gather, num_k_tiles,
                                                                                                   acc);
    write<T, kPass>(a, plane, row_first, num_rows, col_first, acc);
}

}  // namespace tap_mma
