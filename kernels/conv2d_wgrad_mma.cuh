// wgrad as implicit GEMM on tensor cores: bf16 operands, or f32 operands and products in TF32; f32 accumulation, dw f32.
//
// GEMM      gemm_m = K, gemm_n = R*S*C, gemm_k = N*P*Q
// Mapping   block -> tile of dw over one split of gemm_k; k-tiles of 64 pixels of dy and x, or 32 of f32, come by 16-byte cp.async
//           as they lie in memory, channels along the lines; what is multiplied is transposed on its way to registers. A thread
//           keeps its filters and its (r, s, c) and walks over pixels. Columns are taps of 64 channels one after another where
//           channels are whole sixty-fours: taps of one tile read the same pixels
//           grid = (row tiles * column tiles, splits); shared: 3 stages of 128 bytes per row and column of the tile
// Requires  C and K multiples of 8 (f32: of 4), 16-byte aligned tensors; fewer than 2^30 pixels in either image and filter
//           columns, which are counted in int32_t
// Numerics  each part is one sum over pixels, 16 at a time (f32: 8, rounded to TF32) in ascending order; the parts are added by
//           `split_sum` in a fixed order; no atomics, repeatable
#pragma once

#include "conv2d_wgrad_args.cuh"
#include "mma_groups.cuh"

namespace wgrad_mma {

// Columns of one tap that stand together.
constexpr int kGroup = 64;

// The filter element that a column of gemm_n stands for: groups of 64 channels, in a group its taps, in a tap its channels;
// as dw has them where channels are not whole groups. Behind the last column hi is r or more.
static __device__ __forceinline__ Coord filter_element(const Conv2dWgradArgs& a, int32_t col) {
    if (a.c % kGroup != 0) return coord_of(col, {a.c, a.s});
    const int32_t taps = a.r * a.s, position = col / kGroup, group = position / taps;
    const int32_t tap = position % taps, channel = group * kGroup + col % kGroup;
    return {channel, tap % a.s, channel < a.c ? tap / a.s : a.r};
}

template <class T>
struct DyGather {
    using Element = typename T::Element;
    using Lines = typename T::template MnMajorLines<T::kRows>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kDepth / kApart;

    const Element* dy;
    int32_t k, pixels_left, to;

    __device__ __forceinline__ DyGather(const Conv2dWgradArgs& a, int32_t row_first, int32_t pixel_first,
                                        int32_t pixel_end)
        : k(a.k) {
        const int32_t line = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        const int32_t chunk = static_cast<int32_t>(threadIdx.x) % Lines::kChunks;
        const int32_t filter = row_first + chunk * T::kChunkElems;
        to = Lines::offset(line, chunk);
        dy = static_cast<const Element*>(a.dy) + static_cast<int64_t>(pixel_first + line) * k + filter;
        // A filter behind the last has no pixels.
        pixels_left = filter < k ? pixel_end - pixel_first - line : 0;
    }

    __device__ __forceinline__ void start(char* tile) {
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::below(to, i * kApart), dy + static_cast<int64_t>(i * kApart) * k,
                        i * kApart < pixels_left);
        }
        dy += static_cast<int64_t>(T::kDepth) * k;
        pixels_left -= T::kDepth;
    }
};

// The pixels of x under one tap, kApart positions of dy apart. Rows, columns and distances change together by sums with
// carries, without a product.
template <class T>
struct XGather {
    using Element = typename T::Element;
    using Lines = typename T::template MnMajorLines<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kDepth / kApart;

    const Element* x;
    int32_t h, w, c, pixels_left, to;
    int32_t src_h, src_w, position;           // of the next pixel: row, column, pixels from the first
    int32_t step_h, step_w, step_position;    // to the one behind it
    int32_t end_h, end_w;                     // where the next image and the next row begin
    int32_t image_h, row_h, row_w;            // rows of an image; of a row its height and width
    int32_t image_position, row_position;     // what is left out between two images and two rows

    __device__ __forceinline__ XGather(const Conv2dWgradArgs& a, int32_t col_first, int32_t pixel_first,
                                       int32_t pixel_end)
        : h(a.h), w(a.w), c(a.c) {
        const int32_t line = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        const int32_t chunk = static_cast<int32_t>(threadIdx.x) % Lines::kChunks;
        to = Lines::offset(line, chunk);
        const Coord tap = filter_element(a, col_first + chunk * T::kChunkElems);
        x = static_cast<const Element*>(a.x) + tap.lo;
        const Extents extents = {a.q, a.p};
        const Coord pixel = coord_of(pixel_first + line, extents), step = coord_of(kApart, extents);
        const int32_t tap_h = tap.hi - a.pad_h, tap_w = tap.mid - a.pad_w;
        src_h = pixel.mid * a.stride_h + tap_h;
        src_w = pixel.lo * a.stride_w + tap_w;
        position = (pixel.hi * h + src_h) * w + src_w;
        row_h = a.stride_h, row_w = a.q * a.stride_w, image_h = a.p * a.stride_h;
        step_h = step.mid * a.stride_h, step_w = step.lo * a.stride_w;
        step_position = (step.hi * h + step_h) * w + step_w;
        end_h = image_h + tap_h, end_w = row_w + tap_w;
        row_position = row_h * w - row_w, image_position = (h - image_h) * w;
        // A column behind the last has no pixels.
        pixels_left = tap.hi < a.r ? pixel_end - pixel_first - line : 0;
    }

    __device__ __forceinline__ void start(char* tile) {
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const bool valid = i * kApart < pixels_left && within(src_h, h) && within(src_w, w);
            char* at = tile + Lines::below(to, i * kApart);
            const Element* from = x + static_cast<int64_t>(position) * c;
            cp_async_16(at, from, valid);
            src_h += step_h, src_w += step_w, position += step_position;
            if (src_w >= end_w) src_h += row_h, src_w -= row_w, position += row_position;
            if (src_h >= end_h) src_h -= image_h, position += image_position;
        }
        pixels_left -= T::kDepth;
    }
};

template <class T>
struct Gather {
    DyGather<T> dy;
    XGather<T> x;

    __device__ __forceinline__ void start(char* dy_tile, char* x_tile) {
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
    mma_tile::multiply_tile<T, typename DyGather<T>::Lines, typename XGather<T>::Lines>(
        gather, ceil_div(pixel_end - pixel_first, T::kDepth), acc);

    // Four lanes write 32 neighbouring bytes, a whole sector: no detour through shared memory. Columns that stand together are of
    // one tap, so the first says where all of them lie.
    constexpr int kTogether = T::kWarpCols < kGroup ? T::kWarpCols : kGroup;
    static_assert(kGroup % kTogether == 0 && T::kWarpCols % kTogether == 0, "a warp's columns are of whole groups, or of one");
    float* dw = static_cast<float*>(a.dw) + static_cast<int64_t>(blockIdx.y) * a.k * gemm_n;
    const int32_t warp_col = T::warp_col();
    int32_t moved[T::kWarpCols / kTogether];
#pragma unroll
    for (int i = 0; i < T::kWarpCols / kTogether; i++) {
        const int32_t first = warp_col + i * kTogether;
        const Coord element = filter_element(a, col_first + first);
        moved[i] = (element.hi * a.s + element.mid) * a.c + element.lo - first;
    }
    const int32_t own_col = warp_col + T::lane() % 4 * 2;
    mma_tile::for_each_pair_of_tile<T>(acc, [&](int row, int col, float first, float second) {
        if (row_first + row < a.k && col_first + col < gemm_n) {
            float* to = dw + static_cast<int64_t>(row_first + row) * gemm_n + moved[(col - own_col) / kTogether] + col;
            store_vec(to, Vec<float, 2>{first, second});
        }
    });
}

}  // namespace wgrad_mma
