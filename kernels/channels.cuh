// Blocks of 256 threads over a matrix of rows (pixels) by channels: what batch norm and average pooling are made of.
//
//   a block covers a range of rows and a tile of kChannels neighbouring channels; blockIdx.y is the tile
//   a thread owns kWidth of those channels and takes every kRows-th row of the range
//
//             channels of the tile ->
//   rows      | t0      | t1      | .. | t7      |     kWide: 8 threads side by side, 16 bytes of channels each:
//    |        | t8      | t9      | .. | t15     |     128 bytes of a row, four rows a warp
//    v        | ..                               |     otherwise 32 threads side by side, one channel each: a row a warp
//
// Rows and channels are counted in 32 bits; fewer than 2^31 of each, because threads count on behind the last.
//
// A thread keeps its channels, so what belongs to a channel is loaded once and lives in registers.
#pragma once

#include "elementwise.cuh"

// Threads of a block.
FOR_RUST constexpr int kChannelThreads = 256;
// Threads side by side in a row, where each takes 16 bytes of channels.
FOR_RUST constexpr int kWideColumns = 8;
// Threads side by side in a row, where each takes one channel.
FOR_RUST constexpr int kNarrowColumns = 32;

template <class T, bool kIsWide>
struct ChannelTile {
    static constexpr int kThreads = kChannelThreads;
    static constexpr int kWidth = kIsWide ? kVecElems<T> : 1;
    static constexpr int kColumns = kIsWide ? kWideColumns : kNarrowColumns;
    static constexpr int kRows = kThreads / kColumns;
    static constexpr int kChannels = kColumns * kWidth;

    uint32_t row;      // first of this thread, counted from the block's first
    uint32_t channel;  // first of this thread
    bool is_inside;    // there are such channels

    __device__ __forceinline__ explicit ChannelTile(uint32_t channels)
        : row(threadIdx.x / kColumns),
          channel(blockIdx.y * kChannels + threadIdx.x % kColumns * kWidth),
          is_inside(channel < channels) {}
};

// A batch norm by statistics that are there, of a thread's neighbouring channels.
template <int kWidth>
struct SavedNorm {
    float mean[kWidth], scale[kWidth], beta[kWidth];

    __device__ __forceinline__ SavedNorm(const float* mean_at, const float* rstd_at, const float* gamma_at,
                                         const float* beta_at) {
        float gamma[kWidth];
        load_floats(mean, mean_at);
        load_floats(scale, rstd_at);
        load_floats(gamma, gamma_at);
        load_floats(beta, beta_at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) scale[i] = gamma[i] * scale[i];
    }

    __device__ __forceinline__ float operator()(int i, float x) const {
        return normalized(x, mean[i], scale[i], beta[i]);
    }
};

// Calls `use(row, load(row))` for `first` and every kApart-th row after it, below `end`. What is loaded of kTogether rows is under
// way together: the compiler cannot know that what `use` stores is not loaded after it. So `load` must not read what `use`
// stores of another row.
template <int kTogether, int kApart, class Row, class Load, class Use>
static __device__ __forceinline__ void for_each_loaded(Row first, Row end, const Load& load, const Use& use) {
    for (; first < end; first += kTogether * kApart) {
        decltype(load(first)) loaded[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            if (first + i * kApart >= end) break;
            loaded[i] = load(first + i * kApart);
        }
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            if (first + i * kApart >= end) break;
            use(first + i * kApart, loaded[i]);
        }
    }
}

// The same for the tile's rows from `first` to `end`, given where the thread's channels of a row lie instead of the row.
template <int kTogether, class Tile, class Load, class Use>
static __device__ __forceinline__ void for_each_row(const Tile& tile, uint32_t first, uint32_t end, uint32_t channels,
                                                    const Load& load, const Use& use) {
    const auto at = [&](uint32_t row) { return uint64_t{row} * channels + tile.channel; };
    for_each_loaded<kTogether, Tile::kRows>(
        first + tile.row, end, [&](uint32_t row) { return load(at(row)); },
        [&](uint32_t row, const auto& loaded) { use(at(row), loaded); });
}

// Shared memory of sum_rows. A thread's channels lie apart, and 32 neighbouring channels in 32 banks.
template <class Tile, int N>
struct RowSums {
    static constexpr int kWarps = Tile::kThreads / kWarpThreads;
    // Of eight channels, 32 are those of four threads; of four, of eight, as many as a row of channels.cuh has.
    static constexpr int kPad = Tile::kWidth > 4 ? 4 : Tile::kWidth == 4 && Tile::kColumns > 8 ? 8 : 0;
    static constexpr int kPitch = Tile::kColumns + kPad;
    float at[N][kWarps][Tile::kWidth * kPitch];
};

// Sums of N values of each channel over the rows of a block. Thread t < kChannels returns those of the block's channel t in
// `totals`; every thread of the block must call it, those outside with zeros.
// Order: lanes of a warp that share channels (a butterfly), then the warps one after another.
template <class Tile, int N>
static __device__ void sum_rows(RowSums<Tile, N>& shared, float (&values)[N][Tile::kWidth], float (&totals)[N]) {
    constexpr int kPitch = RowSums<Tile, N>::kPitch;
    const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < Tile::kWidth; i++) {
#pragma unroll
            for (int distance = kWarpThreads / 2; distance >= Tile::kColumns; distance /= 2) {
                values[n][i] += __shfl_xor_sync(0xffffffffu, values[n][i], distance);
            }
            if (lane < Tile::kColumns) shared.at[n][warp][i * kPitch + lane] = values[n][i];
        }
    }
    __syncthreads();
    if (threadIdx.x >= Tile::kChannels) return;
    const int at = static_cast<int>(threadIdx.x) % Tile::kWidth * kPitch + static_cast<int>(threadIdx.x) / Tile::kWidth;
#pragma unroll
    for (int n = 0; n < N; n++) {
        totals[n] = shared.at[n][0][at];
        for (int w = 1; w < RowSums<Tile, N>::kWarps; w++) totals[n] += shared.at[n][w][at];
    }
}

template <class Tile, int N>
static __device__ void sum_rows(float (&values)[N][Tile::kWidth], float (&totals)[N]) {
    __shared__ RowSums<Tile, N> shared;
    sum_rows(shared, values, totals);
}
