// What fprop and dgrad on tensor cores do with the sums of a tile: finish, round and store them, and take along what a batch norm
// asks of them. The sums go through shared memory, so that a thread has 16 bytes of neighbouring channels of a row.
#pragma once

#include "conv2d_taps.cuh"
#include "mma_groups.cuh"
#include "relu_mask.cuh"

namespace tap_mma {

// Sums of a chunk of neighbouring channels.
template <class T>
struct ChunkSums { float at[T::kChunkElems]; };

// The result tile as the epilogue goes through it: its rows in shared memory, a thread on a chunk of neighbouring channels of every
// kThreads / kColumns-th row. The sums pass through shared memory because the lanes of a fragment hold only two.
template <class T>
struct Results {
    using Element = typename T::Element;
    static constexpr int kThreads = T::kThreads, kWidth = T::kChunkElems, kColumns = T::kCols / kWidth, kChannels = T::kCols;
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

    // Where a column lies in its row: a phase of shared memory serves eight lanes, whose chunks of eight span its banks twice, so
    // every other four of those have their halves exchanged.
    static __device__ __forceinline__ int place(int col) { return kWidth == 8 ? col ^ (col / 32 % 2 * 4) : col; }

    // Two neighbouring results of a thread whose first column is `own_col`, of which `col` is a multiple of eight away: how often
    // the halves change between them is known to the compiler.
    __device__ __forceinline__ void put(int row, int col, int own_col, float one, float other) const {
        const int apart = col - own_col, first = place(own_col) ^ (kWidth == 8 ? apart / 32 % 2 * 4 : 0);
        store_vec(at + row * kPitch + first + apart, Vec<float, 2>{one, other});
    }

    // This thread's chunk of a row.
    __device__ __forceinline__ ChunkSums<T> chunk(int row) const {
        const float* sums = at + row * kPitch;
        const int first = place(chunk_col);
        ChunkSums<T> chunk;
#pragma unroll
        for (int half = 0; half < kWidth / 4; half++) {
            const Vec<float, 4> four = load_vec<4>(sums + (first ^ half * 4));
#pragma unroll
            for (int i = 0; i < 4; i++) chunk.at[half * 4 + i] = four[i];
        }
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
                store_vec(static_cast<Element*>(a.out) + placed.to, finish(chunk(row), placed.loaded));
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

template <class T>
using Chunk = Packed<typename T::Element, T::kChunkElems>;

// The chunk of `tensor` from its element `at` on.
template <class T>
static __device__ __forceinline__ Chunk<T> chunk_at(const void* tensor, int64_t at) {
    return load_packed<T::kChunkElems>(static_cast<const typename T::Element*>(tensor) + at);
}

// The addend's chunk; zeros without one.
template <class T>
static __device__ __forceinline__ Chunk<T> addend_at(const Conv2dArgs& a, int64_t to) {
    return a.addend ? chunk_at<T>(a.addend, to) : Chunk<T>();
}

// Stores the rounded sums and leaves their mean and centred sum of squares, about the first row, as batch_norm_stats.cu.
template <class T>
static __device__ __forceinline__ void store_with_statistics(const Conv2dArgs& a, const TapPlane& plane,
                                                             const Results<T>& results) {
    using Element = typename T::Element;
    constexpr int kChunkElems = T::kChunkElems;
    if (results.count <= 0) return;
    const float own_pivot = threadIdx.x < T::kCols ? float(Element(results.at[Results<T>::place(threadIdx.x)])) : 0.0f;
    float pivot[kChunkElems], sums[2][kChunkElems] = {}, totals[2] = {};
    rounded<Element>(results.chunk(0).at).floats(pivot);
    results.template store<1>(a, plane, [](int64_t) { return Nothing{}; },
                              [&](const ChunkSums<T>& row, Nothing) {
        const Chunk<T> chunk = rounded<Element>(row.at);
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
template <class T, class Mask, int kNorms>
struct SumsOperands {
    Chunk<T> addend, x[kNorms];
    typename Mask::Loaded mask;
};

// Stores dz, the rounded sums behind the mask, and adds it, and dz * (x - mean) of each batch norm, to this thread's `sums`.
template <class T, class Mask, int N>
static __device__ __forceinline__ void store_behind(const Conv2dArgs& a, const TapPlane& plane, const Results<T>& results,
                                                    const Mask& mask, float (&sums)[N][T::kChunkElems]) {
    constexpr int kNorms = N - 1, kChunkElems = T::kChunkElems;
    const void* const xs[] = {a.x, a.shortcut_x};
    const float* const means[] = {a.mean, a.shortcut_mean};
    float mean[kNorms][kChunkElems];
#pragma unroll
    for (int n = 0; n < kNorms; n++) load_floats(mean[n], means[n] + results.channel());
    // With twice the warps, half as many rows each are as many under way.
    results.template store<4 * 128 / T::kThreads>(a, plane, [&](int64_t to) {
        SumsOperands<T, Mask, kNorms> operands;
        operands.addend = addend_at<T>(a, to);
#pragma unroll
        for (int n = 0; n < kNorms; n++) operands.x[n] = chunk_at<T>(xs[n], to);
        operands.mask = mask.load(to);
        return operands;
    }, [&](const ChunkSums<T>& row, const SumsOperands<T, Mask, kNorms>& operands) {
        float x[kNorms][kChunkElems], dz[kChunkElems];
#pragma unroll
        for (int n = 0; n < kNorms; n++) operands.x[n].floats(x[n]);
        operands.addend.floats(dz);
#pragma unroll
        for (int i = 0; i < kChunkElems; i++) dz[i] += row.at[i];
        mask.apply(operands.mask, x[0], dz);
        const Chunk<T> chunk = rounded<typename T::Element>(dz);
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
    using Element = typename T::Element;
    constexpr int kChunkElems = T::kChunkElems;
    // There are bits where a byte has those of a chunk.
    constexpr bool kHasBits = kChunkElems == BitsMask<Element>::kWidth;
    const BitsMask<Element> bits = {static_cast<const uint8_t*>(a.bits)};
    if constexpr (kHasBits) {
        if (a.shortcut_x) {
            float sums[3][kChunkElems] = {}, totals[3] = {};
            if (results.is_inside) store_behind(a, plane, results, bits, sums);
            results.add_rows(sums, totals);
            results.leave(a, block, totals);
            return;
        }
    }
    float sums[2][kChunkElems] = {}, totals[2] = {};
    if (results.is_inside && a.beta) {
        const int32_t channel = results.channel();
        const RecomputedMask<Element, kChunkElems> recomputed(a.mean + channel, a.rstd + channel, a.gamma + channel,
                                                              a.beta + channel);
        store_behind(a, plane, results, recomputed, sums);
    } else if (results.is_inside && a.bits) {
        if constexpr (kHasBits) store_behind(a, plane, results, bits, sums);
    } else if (results.is_inside) {
        store_behind(a, plane, results, NoMask<Element, kChunkElems>{}, sums);
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
        constexpr int kChunkElems = T::kChunkElems;
        finish_sums<kPass, kChunkElems>(a, results.channel(), [&](const auto& finish) {
            results.template store<1>(a, plane, [&](int64_t to) { return addend_at<T>(a, to); },
                                      [&](const ChunkSums<T>& sums, const Chunk<T>& loaded) {
                float addend[kChunkElems], finished[kChunkElems];
                loaded.floats(addend);
#pragma unroll
                for (int i = 0; i < kChunkElems; i++) finished[i] = finish(i, sums.at[i], addend[i]);
                return rounded<typename T::Element>(finished);
            });
        });
    } else if constexpr (kPass == Pass::kFprop) {
        store_with_statistics(a, plane, results);
    } else {
        store_with_sums(a, plane, results, block_of_rows<T>(a, row_first));
    }
}

}  // namespace tap_mma
