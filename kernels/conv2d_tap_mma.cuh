// fprop and dgrad as implicit GEMM on tensor cores: bf16 storage, or f32 storage and products in TF32; f32 accumulation.
//
// GEMM      gemm_m = output positions of a class, gemm_n = output channels, gemm_k = taps * source channels
// Mapping   block -> tile of one class; warp -> 64x64, 64x32 or 32x32 of it; thread -> m16n8k16 fragments. K-tiles of 64
//           gemm_k positions come by 16-byte cp.async; what lies outside the image is filled with zeros on the way. Where
//           a k-tile is 64 channels of one tap, all taps of these channels follow one another, so that a pixel that
//           several taps read comes from L2 once and stays in L1. Of f32: m16n8k8, and 32 positions or channels
//           grid = (row tiles * column tiles, classes); column tiles of the same rows are neighbours
//           shared: 2 to 4 stages of 128 bytes per row and column of the tile (mma_tile.cuh); at the end the f32 results
// Requires  channels of both images multiples of 8 (f32: of 4), 16-byte aligned tensors, filters of at most kMostTaps rows and
//           columns; counted in int32_t, and so below 2^31: chunks of 16 bytes of the source, elements of the source in as many
//           rows as the filter has and 8 more; below 2^30: pixels in either image, positions of gemm_k
// Numerics  each output is one sum over gemm_k, 16 positions at a time (f32: 8, rounded to TF32), in ascending order of taps and
//           channels (fprop of channels that are no multiple of 64), else of 64 channels, taps and channels; rounded once, after
//           batch norm and addend. What a batch norm asks of the results is summed in f32 over the rows of the tile, at most 16
//           of them by a thread, as channels.cuh adds; no atomics, repeatable
#pragma once

#include "conv2d_tap_results.cuh"

namespace tap_mma {

// Which filters a kernel takes: any, or those of one tap, whose pixels are read once and go past L1.
enum class Taps { kAny, kOne };

// Most rows and columns of a filter.
FOR_RUST constexpr int kMostTaps = 15;

// A bit for each tap t that lies outside when the first is at `first`: first + t is not in 0..extent.
static __device__ __forceinline__ uint32_t taps_outside(int32_t first, int32_t extent) {
    const uint32_t before = (1u << min(max(-first, 0), kMostTaps)) - 1;
    const uint32_t inside_or_before = (1u << min(max(extent - first, 0), kMostTaps)) - 1;
    return (before | ~inside_or_before) & ((1u << kMostTaps) - 1);
}

// A thread reads chunk `chunk()` of a k-tile's channels, of sources and, in an fprop, of filters.
static __device__ __forceinline__ int32_t chunk() { return static_cast<int32_t>(threadIdx.x) % mma_tile::kDepthChunks; }

// The tap and the channel that this thread's chunk of the next k-tile belongs to.
template <class T, Pass kPass, Taps kTaps>
struct Walk {
    static constexpr int kDepth = T::kDepth, kChunkElems = T::kChunkElems;

    int32_t r = 0, s = 0, channel = chunk() * kChunkElems;
    int32_t taps_h, taps_w, channels;
    bool is_whole;  // whether a k-tile is channels of one tap
    Coord step = {};

    __device__ __forceinline__ Walk(const Conv2dArgs& a, const TapPlane& plane)
        : taps_h(plane.h.num_taps), taps_w(plane.w.num_taps), channels(a.src_c) {
        is_whole = kPass == Pass::kDgrad || kTaps == Taps::kOne || channels % kDepth == 0;
        if (!is_whole) {
            const Extents extents = tap_extents(plane, channels);
            const Coord first = coord_of(channel, extents);
            channel = first.lo, s = first.mid, r = first.hi;
            step = coord_of(kDepth, extents);
        }
    }

    __device__ __forceinline__ int32_t num_k_tiles() const {
        return is_whole ? taps_h * taps_w * ceil_div(channels, kDepth) : ceil_div(taps_h * taps_w * channels, kDepth);
    }

    // Behind the last tap or channel is nothing.
    __device__ __forceinline__ bool in_range() const { return channel < channels && r < taps_h; }

    __device__ __forceinline__ void next() {
        if (kTaps == Taps::kOne) {
            channel += kDepth;
        } else if (is_whole) {
            s++;
            if (s == taps_w) s = 0, r++;
            if (r == taps_h) r = 0, channel += kDepth;
        } else {
            Coord at = {channel, s, r};
            advance(at, step, {channels, taps_w});
            channel = at.lo, s = at.mid, r = at.hi;
        }
    }
};

// Rows of the tile from the source image. Thread -> one chunk of the k-tile, for rows kApart apart.
template <class T, Taps kTaps>
struct SourceGather {
    using Element = typename T::Element;
    using Lines = typename T::template KMajorLines<T::kRows>;
    static constexpr int kChunkElems = T::kChunkElems;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kRows / kApart;
    // Bits of `absent`: a tap's row, its column, and one that no row of the tile has.
    static constexpr int kColBit = kMostTaps, kNever = 31;

    const Element* src;
    int32_t src_w, src_chunks;
    int32_t to;                // of the first row, in bytes of the tile
    int32_t origin[kCopies];   // in chunks, of tap (0, 0), channel 0; may lie outside
    uint32_t absent[kCopies];  // the rows and columns of taps that lie outside the image

    __device__ __forceinline__ SourceGather(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                            int32_t num_rows)
        : src(static_cast<const Element*>(a.src)), src_w(a.src_w), src_chunks(a.src_c / kChunkElems) {
        const int32_t line = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        to = Lines::offset(line, chunk());
        if (kTaps == Taps::kOne && is_every_pixel(a, plane)) {
#pragma unroll
            for (int i = 0; i < kCopies; i++) {
                const int32_t row = row_first + line + i * kApart;
                origin[i] = min(row, num_rows - 1) * src_chunks;
                absent[i] = row < num_rows ? 1u << kNever : ~0u;
            }
            return;
        }
        const Extents extents = pixel_extents(plane);
        Coord pixel = coord_of(row_first + line, extents);
        const Coord step = coord_of(kApart, extents);
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int32_t h = pixel.mid * plane.h.src_step + plane.h.src_first;
            const int32_t w = pixel.lo * plane.w.src_step + plane.w.src_first;
            // Rows behind the last stay in the last image, whose addresses can be counted.
            origin[i] = ((min(pixel.hi, a.batch - 1) * a.src_h + h) * src_w + w) * src_chunks;
            absent[i] = row_first + line + i * kApart < num_rows ? 1u << kNever : ~0u;
            absent[i] |= taps_outside(h, a.src_h) | taps_outside(w, src_w) << kColBit;
            advance(pixel, step, extents);
        }
    }

    // Whether the rows of the product are the pixels of the source, in order: a division less for each coordinate.
    static __device__ __forceinline__ bool is_every_pixel(const Conv2dArgs& a, const TapPlane& plane) {
        return plane.h.src_step == 1 && plane.w.src_step == 1 && plane.h.src_first == 0 && plane.w.src_first == 0 &&
               plane.h.num_out == a.src_h && plane.w.num_out == a.src_w;
    }

    template <class W>
    __device__ __forceinline__ void start(char* tile, const W& walk) const {
        const int32_t delta = (walk.r * src_w + walk.s) * src_chunks + walk.channel / kChunkElems;
        const uint32_t tap = walk.in_range() ? 1u << walk.r | 1u << (kColBit + walk.s) : 1u << kNever;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const Element* from = src + static_cast<int64_t>(origin[i] + delta) * kChunkElems;
            char* at = tile + Lines::below(to, i * kApart);
            const bool valid = (absent[i] & tap) == 0;
            if (kTaps == Taps::kOne) {
                cp_async_16(at, from, valid);
            } else {
                cp_async_16_cached(at, from, valid);
            }
        }
    }
};

// Columns of the tile from the filters of an fprop, whose gemm_k positions are contiguous.
template <class T, Pass kPass>
struct WeightGather {
    using Element = typename T::Element;
    using Lines = typename T::template KMajorLines<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kCols / kApart;

    const Element* weights;
    int32_t taps_w, src_c, gemm_k, cols_left, to;

    __device__ __forceinline__ WeightGather(const Conv2dArgs& a, const TapPlane& plane, int32_t col_first)
        : taps_w(plane.w.num_taps), src_c(a.src_c), gemm_k(plane.num_taps() * a.src_c) {
        const int32_t col = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        to = Lines::offset(col, chunk());
        weights = static_cast<const Element*>(a.weights) + static_cast<int64_t>(col_first + col) * gemm_k;
        cols_left = a.out_c - col_first - col;
    }

    template <class W>
    __device__ __forceinline__ void start(char* tile, const W& walk) const {
        const Element* from = weights + (walk.r * taps_w + walk.s) * src_c + walk.channel;
        const int32_t left = walk.in_range() ? cols_left : 0;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::below(to, i * kApart), from + static_cast<int64_t>(i * kApart) * gemm_k,
                        i * kApart < left);
        }
    }
};

// Columns of the tile from the filters of a dgrad, whose input channels are contiguous: lines of the stage are gemm_k
// positions, filters of one tap.
template <class T>
struct WeightGather<T, Pass::kDgrad> {
    using Element = typename T::Element;
    using Lines = typename T::template MnMajorLines<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kDepth / kApart, kChunkElems = T::kChunkElems;

    const Element* weights;
    TapAxis axis_h, axis_w;
    int32_t kernel_w, out_c, filter_elems, first_line, channels, to;

    __device__ __forceinline__ WeightGather(const Conv2dArgs& a, const TapPlane& plane, int32_t col_first)
        : axis_h(plane.h), axis_w(plane.w), kernel_w(a.kernel_w), out_c(a.out_c),
          filter_elems(a.kernel_h * a.kernel_w * a.out_c) {
        const int32_t line = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        const int32_t col = static_cast<int32_t>(threadIdx.x) % Lines::kChunks;
        to = Lines::offset(line, col);
        // The walk has the channel of this thread's chunk.
        first_line = line - chunk() * kChunkElems;
        channels = col_first + col * kChunkElems < out_c ? a.src_c : 0;
        weights = static_cast<const Element*>(a.weights) + col_first + col * kChunkElems;
    }

    template <class W>
    __device__ __forceinline__ void start(char* tile, const W& walk) const {
        const int32_t r = axis_h.weight_first + walk.r * axis_h.weight_step;
        const int32_t s = axis_w.weight_first + walk.s * axis_w.weight_step;
        const int32_t filter = walk.channel + first_line;
        const Element* from = weights + static_cast<int64_t>(filter) * filter_elems + (r * kernel_w + s) * out_c;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::below(to, i * kApart),
                        from + static_cast<int64_t>(i * kApart) * filter_elems, filter + i * kApart < channels);
        }
    }
};

template <class T, Pass kPass, Taps kTaps>
struct Gather {
    Walk<T, kPass, kTaps> walk;
    SourceGather<T, kTaps> sources;
    WeightGather<T, kPass> weights;

    __device__ __forceinline__ void start(char* source_tile, char* weight_tile) {
        sources.start(source_tile, walk);
        weights.start(weight_tile, walk);
        walk.next();
    }
};

template <class T, Pass kPass, Taps kTaps = Taps::kAny>
static __device__ __forceinline__ void run(const Conv2dArgs& a) {
    const TapPlane plane = tap_plane<kPass>(a, static_cast<int32_t>(blockIdx.y));
    const int32_t num_rows = a.batch * plane.num_out();
    const int32_t col_tiles = ceil_div(a.out_c, T::kCols);
    const int32_t row_first = static_cast<int32_t>(blockIdx.x) / col_tiles * T::kRows;
    const int32_t col_first = static_cast<int32_t>(blockIdx.x) % col_tiles * T::kCols;
    if (row_first >= num_rows) {  // the grid is made for the class with most positions
        if (kPass == Pass::kDgrad && a.partials != nullptr) leave_no_sums<T>(a, row_first, col_first);
        return;
    }
    typename T::Acc acc;
    Gather<T, kPass, kTaps> gather = {{a, plane}, {a, plane, row_first, num_rows}, {a, plane, col_first}};
    const int32_t num_k_tiles = gather.walk.num_k_tiles();
    mma_tile::multiply_tile<T, typename SourceGather<T, kTaps>::Lines, typename WeightGather<T, kPass>::Lines>(
        gather, num_k_tiles, acc);
    write<kPass, T>(a, plane, row_first, num_rows, col_first, acc);
}

}  // namespace tap_mma
