// fprop and dgrad as implicit GEMM on tensor cores: bf16 storage, f32 accumulation.
//
// GEMM      gemm_m = output positions of a class, gemm_n = output channels, gemm_k = taps * source channels
// Mapping   block -> tile of one class; warp -> 64x64, 64x32 or 32x32 of it; thread -> m16n8k16 fragments. K-tiles of 64
//           gemm_k positions come by 16-byte cp.async; what lies outside the image is filled with zeros on the way. Where
//           a k-tile is 64 channels of one tap, all taps of these channels follow one another, so that a pixel that
//           several taps read comes from L2 once and stays in L1
//           grid = (row tiles * column tiles, classes); column tiles of the same rows are neighbours
//           shared: 2 to 4 stages of 128 bytes per row and column of the tile (mma_tile.cuh); at the end the f32 results
// Requires  channels of both images multiples of 8, 16-byte aligned tensors, filters of at most kMostTaps rows and columns;
//           counted in int32_t, and so below 2^31: chunks of 8 channels of the source, elements of the source in as many
//           rows as the filter has and 8 more; below 2^30: pixels in either image, positions of gemm_k
// Numerics  each output is one sum over gemm_k, 16 positions at a time, in ascending order of taps and channels (fprop of
//           channels that are no multiple of 64), else of 64 channels, taps and channels; rounded to bf16 once, after
//           batch norm and addend. What a batch norm asks of the results is summed in f32 over the rows of the tile, at most 16
//           of them by a thread, as channels.cuh adds; no atomics, repeatable
#pragma once

#include "conv2d_taps.cuh"
#include "mma_groups.cuh"
#include "relu_mask.cuh"

namespace tap_mma {

using mma_tile::kChunkElems;
using mma_tile::kDepth;

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

// A thread reads chunk `chunk()` of 64 channels, of sources and, in an fprop, of filters.
static __device__ __forceinline__ int32_t chunk() { return static_cast<int32_t>(threadIdx.x) % (kDepth / kChunkElems); }

// The tap and the channel that this thread's chunk of the next k-tile belongs to.
template <Pass kPass, Taps kTaps>
struct Walk {
    int32_t r = 0, s = 0, channel = chunk() * kChunkElems;
    int32_t taps_h, taps_w, channels;
    bool is_whole;  // whether a k-tile is 64 channels of one tap
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
    using Lines = typename T::template KMajorLines<T::kRows>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kRows / kApart;
    // Bits of `absent`: a tap's row, its column, and one that no row of the tile has.
    static constexpr int kColBit = kMostTaps, kNever = 31;

    const bf16* src;
    int32_t src_w, src_chunks;
    int32_t to;                // of the first row, in bytes of the tile
    int32_t origin[kCopies];   // in chunks, of tap (0, 0), channel 0; may lie outside
    uint32_t absent[kCopies];  // the rows and columns of taps that lie outside the image

    __device__ __forceinline__ SourceGather(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                            int32_t num_rows)
        : src(static_cast<const bf16*>(a.src)), src_w(a.src_w), src_chunks(a.src_c / kChunkElems) {
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
            const bf16* from = src + static_cast<int64_t>(origin[i] + delta) * kChunkElems;
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
    using Lines = typename T::template KMajorLines<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = T::kCols / kApart;

    const bf16* weights;
    int32_t taps_w, src_c, gemm_k, cols_left, to;

    __device__ __forceinline__ WeightGather(const Conv2dArgs& a, const TapPlane& plane, int32_t col_first)
        : taps_w(plane.w.num_taps), src_c(a.src_c), gemm_k(plane.num_taps() * a.src_c) {
        const int32_t col = static_cast<int32_t>(threadIdx.x) / Lines::kChunks;
        to = Lines::offset(col, chunk());
        weights = static_cast<const bf16*>(a.weights) + static_cast<int64_t>(col_first + col) * gemm_k;
        cols_left = a.out_c - col_first - col;
    }

    template <class W>
    __device__ __forceinline__ void start(char* tile, const W& walk) const {
        const bf16* from = weights + (walk.r * taps_w + walk.s) * src_c + walk.channel;
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
    using Lines = typename T::template MnMajorLines<T::kCols>;
    static constexpr int kApart = T::kThreads / Lines::kChunks;
    static constexpr int kCopies = kDepth / kApart;

    const bf16* weights;
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
        weights = static_cast<const bf16*>(a.weights) + col_first + col * kChunkElems;
    }

    template <class W>
    __device__ __forceinline__ void start(char* tile, const W& walk) const {
        const int32_t r = axis_h.weight_first + walk.r * axis_h.weight_step;
        const int32_t s = axis_w.weight_first + walk.s * axis_w.weight_step;
        const int32_t filter = walk.channel + first_line;
        const bf16* from = weights + static_cast<int64_t>(filter) * filter_elems + (r * kernel_w + s) * out_c;
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            cp_async_16(tile + Lines::below(to, i * kApart),
                        from + static_cast<int64_t>(i * kApart) * filter_elems, filter + i * kApart < channels);
        }
    }
};

template <class T, Pass kPass, Taps kTaps>
struct Gather {
    Walk<kPass, kTaps> walk;
    SourceGather<T, kTaps> sources;
    WeightGather<T, kPass> weights;

    __device__ __forceinline__ void start(char* source_tile, char* weight_tile) {
        sources.start(source_tile, walk);
        weights.start(weight_tile, walk);
        walk.next();
    }
};

// Sums of eight neighbouring channels.
struct ChunkSums { float at[kChunkElems]; };

// The result tile as the epilogue goes through it: its rows in shared memory, a thread on eight neighbouring channels of every
// kThreads / kColumns-th row. The sums pass through shared memory because the lanes of a fragment hold only two.
template <class T>
struct Results {
    static constexpr int kThreads = T::kThreads, kWidth = kChunkElems, kColumns = T::kCols / kWidth, kChannels = T::kCols;
    static constexpr int kPitch = kChannels + mma_tile::kResultPad, kRowBytes = kPitch * static_cast<int>(sizeof(float));
    static constexpr int kRows = T::kRows;
    static_assert(kRows * kRowBytes <= T::kSharedBytes, "no room");
    static_assert(sizeof(RowSums<Results, 3>) <= T::kSharedBytes && kThreads >= kChannels, "no room for sums");

    float* at;
    int32_t position, count;  // of the first row in out; rows that are in out
    int32_t col_first;
    int chunk_col;    // of this thread, counted from col_first
    bool is_inside;   // there are such channels

    __device__ __forceinline__ Results(const Conv2dArgs& a, int32_t position, int32_t num_rows, int32_t col_first)
        : at(dynamic_shared<float>()),
          position(position),
          count(min(num_rows - position, kRows)),
          col_first(col_first),
          chunk_col(static_cast<int>(threadIdx.x) % kColumns * kWidth),
          is_inside(col_first + chunk_col < a.out_c) {}

    __device__ __forceinline__ int32_t channel() const { return col_first + chunk_col; }

    // Where a column lies in its row: a phase of shared memory serves eight lanes, whose chunks span its banks twice, so every
    // other four chunks have their halves exchanged.
    static __device__ __forceinline__ int place(int col) { return col ^ (col / 32 % 2 * 4); }

    // Two neighbouring results of a thread whose first column is `own_col`, of which `col` is a multiple of eight away: how often
    // the halves change between them is known to the compiler.
    __device__ __forceinline__ void put(int row, int col, int own_col, float one, float other) const {
        const int apart = col - own_col, first = place(own_col) ^ (apart / 32 % 2 * 4);
        store_vec(at + row * kPitch + first + apart, Vec<float, 2>{one, other});
    }

    // This thread's chunk of a row.
    __device__ __forceinline__ ChunkSums chunk(int row) const {
        const float* sums = at + row * kPitch;
        const int first = place(chunk_col);
        const Vec<float, 4> halves[2] = {load_vec<4>(sums + first), load_vec<4>(sums + (first ^ 4))};
        ChunkSums chunk;
#pragma unroll
        for (int i = 0; i < kWidth; i++) chunk.at[i] = halves[i / 4][i % 4];
        return chunk;
    }

    // Stores `finish(sums, load(place in out))` of this thread's chunk of each row, what is loaded of kTogether rows together.
    template <int kTogether, class Load, class Finish>
    __device__ __forceinline__ void store(const Conv2dArgs& a, const TapPlane& plane, const Load& load,
                                          const Finish& finish) const {
        struct Placed {
            int64_t to;
            decltype(load(int64_t{})) loaded;
        };
        constexpr int kApart = kThreads / kColumns;
        static_assert(kRows % (kApart * kTogether) == 0, "whole turns only");
        if (!is_inside) return;
        for_each_loaded<kTogether, kApart>(
            static_cast<int32_t>(threadIdx.x) / kColumns, count,
            [&](int32_t row) -> Placed {
                const int64_t to = out_offset(a, plane, position + row) + channel();
                return {to, load(to)};
            },
            [&](int32_t row, const Placed& placed) {
                store_vec(static_cast<bf16*>(a.out) + placed.to, finish(chunk(row), placed.loaded));
            });
    }

    // Adds what each thread has of its channels over the rows; thread t < kChannels has the totals of channel t. Results are
    // gone then.
    template <int N>
    __device__ __forceinline__ void add_rows(float (&values)[N][kWidth], float (&totals)[N]) const {
        __syncthreads();
        sum_rows(*reinterpret_cast<RowSums<Results, N>*>(at), values, totals);
    }

    // Leaves the numbers of the channel that this thread has totals of.
    template <int N>
    __device__ __forceinline__ void leave(const Conv2dArgs& a, int32_t block, const float (&numbers)[N]) const {
        const int32_t channel = col_first + static_cast<int32_t>(threadIdx.x);
        if (threadIdx.x >= kChannels || channel >= a.out_c) return;
        float* to = a.partials + int64_t{N} * block * a.out_c + channel;
#pragma unroll
        for (int n = 0; n < N; n++) to[n * a.out_c] = numbers[n];
    }
};

using Chunk = Packed<bf16, kChunkElems>;

// The addend's chunk; zeros without one.
static __device__ __forceinline__ Chunk addend_at(const Conv2dArgs& a, int64_t to) {
    return a.addend ? load_packed<kChunkElems>(static_cast<const bf16*>(a.addend) + to) : Chunk();
}

// Stores the rounded sums and leaves their mean and centred sum of squares, about the first row, as batch_norm_stats.cu.
template <class T>
static __device__ __forceinline__ void store_with_statistics(const Conv2dArgs& a, const TapPlane& plane,
                                                             const Results<T>& results) {
    if (results.count <= 0) return;
    const float own_pivot = threadIdx.x < T::kCols ? float(bf16(results.at[Results<T>::place(threadIdx.x)])) : 0.0f;
    float pivot[kChunkElems], sums[2][kChunkElems] = {}, totals[2] = {};
    rounded<bf16>(results.chunk(0).at).floats(pivot);
    results.template store<1>(a, plane, [](int64_t) { return Nothing{}; },
                              [&](const ChunkSums& row, Nothing) {
        const Chunk chunk = rounded<bf16>(row.at);
        float y[kChunkElems];
        chunk.floats(y);
#pragma unroll
        for (int i = 0; i < kChunkElems; i++) {
            const float apart = y[i] - pivot[i];
            sums[0][i] += apart;
            sums[1][i] += apart * apart;
        }
        return chunk;
    });
    results.add_rows(sums, totals);
    const float apart = totals[0] / static_cast<float>(results.count);
    results.leave(a, results.position / Results<T>::kRows, {own_pivot + apart, totals[1] - totals[0] * apart});
}

// What the sums of a dgrad are finished with, and of the batch norms that its result is the gradient of.
template <class Mask, int kNorms>
struct SumsOperands {
    Chunk addend, x[kNorms];
    typename Mask::Loaded mask;
};

// Stores dz, the rounded sums behind the mask, and adds it, and dz * (x - mean) of each batch norm, to this thread's `sums`.
template <class T, class Mask, int N>
static __device__ __forceinline__ void store_behind(const Conv2dArgs& a, const TapPlane& plane, const Results<T>& results,
                                                    const Mask& mask, float (&sums)[N][kChunkElems]) {
    constexpr int kNorms = N - 1;
    const void* const xs[] = {a.x, a.shortcut_x};
    const float* const means[] = {a.mean, a.shortcut_mean};
    float mean[kNorms][kChunkElems];
#pragma unroll
    for (int n = 0; n < kNorms; n++) load_floats(mean[n], means[n] + results.channel());
    // With twice the warps, half as many rows each are as many under way.
    results.template store<4 * 128 / T::kThreads>(a, plane, [&](int64_t to) {
        SumsOperands<Mask, kNorms> operands;
        operands.addend = addend_at(a, to);
#pragma unroll
        for (int n = 0; n < kNorms; n++) {
            operands.x[n] = load_packed<kChunkElems>(static_cast<const bf16*>(xs[n]) + to);
        }
        operands.mask = mask.load(to);
        return operands;
    }, [&](const ChunkSums& row, const SumsOperands<Mask, kNorms>& operands) {
        float x[kNorms][kChunkElems], dz[kChunkElems];
#pragma unroll
        for (int n = 0; n < kNorms; n++) operands.x[n].floats(x[n]);
        operands.addend.floats(dz);
#pragma unroll
        for (int i = 0; i < kChunkElems; i++) dz[i] += row.at[i];
        mask.apply(operands.mask, x[0], dz);
        const Chunk chunk = rounded<bf16>(dz);
        chunk.floats(dz);
#pragma unroll
        for (int i = 0; i < kChunkElems; i++) {
            sums[0][i] += dz[i];
#pragma unroll
            for (int n = 0; n < kNorms; n++) sums[1 + n][i] += dz[i] * (x[n][i] - mean[n][i]);
        }
        return chunk;
    });
}

// Stores dz and leaves its sums, as batch_norm_bwd_sums.cu: of no rows zeros.
template <class T>
static __device__ __forceinline__ void store_with_sums(const Conv2dArgs& a, const TapPlane& plane,
                                                       const Results<T>& results, int32_t block) {
    const BitsMask<bf16> bits = {static_cast<const uint8_t*>(a.bits)};
    if (a.shortcut_x) {
        float sums[3][kChunkElems] = {}, totals[3] = {};
        if (results.is_inside) store_behind(a, plane, results, bits, sums);
        results.add_rows(sums, totals);
        results.leave(a, block, totals);
        return;
    }
    float sums[2][kChunkElems] = {}, totals[2] = {};
    if (results.is_inside && a.beta) {
        const int32_t channel = results.channel();
        const RecomputedMask<bf16, kChunkElems> recomputed(a.mean + channel, a.rstd + channel, a.gamma + channel,
                                                           a.beta + channel);
        store_behind(a, plane, results, recomputed, sums);
    } else if (results.is_inside && a.bits) {
        store_behind(a, plane, results, bits, sums);
    } else if (results.is_inside) {
        store_behind(a, plane, results, NoMask<bf16, kChunkElems>{}, sums);
    }
    results.add_rows(sums, totals);
    results.leave(a, block, totals);
}

// Which block of rows the position `row` of a class begins, counted over all classes, each of as many as the largest has.
template <class T>
static __device__ __forceinline__ int32_t block_of_rows(const Conv2dArgs& a, int32_t row) {
    const int32_t blocks = static_cast<int32_t>(gridDim.x) / ceil_div(a.out_c, T::kCols);
    return static_cast<int32_t>(blockIdx.y) * blocks + row / T::kRows;
}

// Leaves the sums of a tile without rows.
template <class T>
static __device__ __forceinline__ void leave_no_sums(const Conv2dArgs& a, int32_t row_first, int32_t col_first) {
    const Results<T> results(a, row_first, 0, col_first);
    const int32_t block = block_of_rows<T>(a, row_first);
    if (a.shortcut_x) {
        results.leave(a, block, {0.0f, 0.0f, 0.0f});
    } else {
        results.leave(a, block, {0.0f, 0.0f});
    }
}

// Finishes, rounds and stores the sums of a tile.
template <Pass kPass, class T>
static __device__ __forceinline__ void write(const Conv2dArgs& a, const TapPlane& plane, int32_t row_first,
                                             int32_t num_rows, int32_t col_first, const typename T::Acc& acc) {
    const Results<T> results(a, row_first, num_rows, col_first);
    const int own_col = T::warp_col() + T::lane() % 4 * 2;
    mma_tile::for_each_pair_of_tile<T>(acc, [&](int row, int col, float one, float other) {
        results.put(row, col, own_col, one, other);
    });
    __syncthreads();
    if (a.partials == nullptr) {
        finish_sums<kPass, kChunkElems>(a, results.channel(), [&](const auto& finish) {
            results.template store<1>(a, plane, [&](int64_t to) { return addend_at(a, to); },
                                      [&](const ChunkSums& sums, const Chunk& loaded) {
                float addend[kChunkElems], finished[kChunkElems];
                loaded.floats(addend);
#pragma unroll
                for (int i = 0; i < kChunkElems; i++) finished[i] = finish(i, sums.at[i], addend[i]);
                return rounded<bf16>(finished);
            });
        });
    } else if constexpr (kPass == Pass::kFprop) {
        store_with_statistics(a, plane, results);
    } else {
        store_with_sums(a, plane, results, block_of_rows<T>(a, row_first));
    }
}

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
