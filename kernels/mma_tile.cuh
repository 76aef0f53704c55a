// GEMM tiles on tensor cores: how bf16 operands lie in shared memory, how warps read them, and the pipeline around it.
//
// A stage holds kDepth gemm_k positions of both operands. An operand lies as its tensor gives it, 16 bytes at a time:
// either gemm_k runs along the lines (x and w of fprop, dy of dgrad) or the tile's rows or columns do (w of dgrad, both
// operands of wgrad). `ldmatrix` reads the first kind as the fragments want it and transposes the second, at the same
// cost, so nothing is transposed in memory. Chunks of 16 bytes are stored at chunk ^ (line % 8): the eight lines that
// `ldmatrix` reads together, and the eight that lanes write together, then fall into different banks.
#pragma once

#include "mma.cuh"

namespace mma_tile {

// Positions of gemm_k in a stage.
FOR_RUST constexpr int kDepth = 64;
// Elements of one 16-byte copy.
FOR_RUST constexpr int kChunkElems = 8;
// Copies of two stages are under way while the third is multiplied: 96 KiB for 128x128, two blocks on an SM of 228 KiB.
FOR_RUST constexpr int kStages = 3;
// Floats added to a line of the result, so that the eight lines a warp writes together start in different banks.
constexpr int kResultPad = 8;

// A block's tile, divided among kWarpsDown * kWarpsAcross warps.
template <int kRows_, int kCols_, int kWarpsDown_, int kWarpsAcross_>
struct Tile {
    static constexpr int kRows = kRows_, kCols = kCols_, kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
    static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpThreads;
    static constexpr int kWarpRows = kRows / kWarpsDown, kWarpCols = kCols / kWarpsAcross;
    // Products m16n8k16 of a warp in each direction.
    static constexpr int kFragmentsM = kWarpRows / 16, kFragmentsN = kWarpCols / 8;
    static_assert(kFragmentsM * 16 == kWarpRows && kFragmentsN * 8 == kWarpCols && kFragmentsN % 2 == 0, "whole fragments only");

    struct Acc {
        float at[kFragmentsM][kFragmentsN][4] = {};
    };

    static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
    static __device__ __forceinline__ int warp_row() {
        return static_cast<int>(threadIdx.x) / kWarpThreads / kWarpsAcross * kWarpRows;
    }
    static __device__ __forceinline__ int warp_col() {
        return static_cast<int>(threadIdx.x) / kWarpThreads % kWarpsAcross * kWarpCols;
    }
};

// Four warps each, so that a warp's part is as square and as large as registers allow: 64x64 multiplies and adds 16
// times for each byte it reads from shared memory, 32x32 eight times. The largest takes 244 registers a thread: two
// blocks on an SM.
using Tile128x128 = Tile<128, 128, 2, 2>;
using Tile128x64 = Tile<128, 64, 2, 2>;
using Tile64x128 = Tile<64, 128, 2, 2>;
using Tile64x64 = Tile<64, 64, 2, 2>;

// How an operand of kExtent rows or columns lies in a stage.
template <int kExtent, int kLines_, int kChunks_>
struct Lines {
    static constexpr int kLines = kLines_, kChunks = kChunks_, kElems = kLines * kChunks * kChunkElems;
    static_assert(kChunks % 8 == 0, "the swizzle needs eight chunks a line");

    static __device__ __forceinline__ int offset(int line, int chunk) {
        return (line * kChunks + (chunk ^ (line % 8))) * kChunkElems;
    }
};

// gemm_k runs along the lines.
template <int kExtent>
struct KMajor : Lines<kExtent, kExtent, kDepth / kChunkElems> {
    using KMajor::Lines::offset;

    // The fragment of rows row .. row + 15, positions k .. k + 15.
    static __device__ __forceinline__ void load_a(const bf16* tile, int row, int k, uint32_t (&a)[4]) {
        const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
        ldmatrix_x4(a, tile + offset(row + lane % 16, k / kChunkElems + lane / 16));
    }

    // The fragments of columns col .. col + 15, eight each.
    static __device__ __forceinline__ void load_b(const bf16* tile, int col, int k, uint32_t (&b)[2][2]) {
        const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
        uint32_t pair[4];
        ldmatrix_x4(pair, tile + offset(col + lane % 8 + lane / 16 * 8, k / kChunkElems + lane / 8 % 2));
        b[0][0] = pair[0], b[0][1] = pair[1], b[1][0] = pair[2], b[1][1] = pair[3];
    }
};

// The tile's rows or columns run along the lines.
template <int kExtent>
struct MnMajor : Lines<kExtent, kDepth, kExtent / kChunkElems> {
    using MnMajor::Lines::offset;

    static __device__ __forceinline__ void load_a(const bf16* tile, int row, int k, uint32_t (&a)[4]) {
        const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
        ldmatrix_x4_trans(a, tile + offset(k + lane % 8 + lane / 16 * 8, row / kChunkElems + lane / 8 % 2));
    }

    static __device__ __forceinline__ void load_b(const bf16* tile, int col, int k, uint32_t (&b)[2][2]) {
        const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
        uint32_t pair[4];
        ldmatrix_x4_trans(pair, tile + offset(k + lane % 16, col / kChunkElems + lane / 16));
        b[0][0] = pair[0], b[0][1] = pair[1], b[1][0] = pair[2], b[1][1] = pair[3];
    }
};

template <class T>
struct Fragments {
    uint32_t a[T::kFragmentsM][4], b[T::kFragmentsN / 2][2][2];

    template <class A, class B>
    __device__ __forceinline__ void load(const bf16* a_tile, const bf16* b_tile, int k) {
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) A::load_a(a_tile, T::warp_row() + 16 * i, k, a[i]);
#pragma unroll
        for (int j = 0; j < T::kFragmentsN / 2; j++) B::load_b(b_tile, T::warp_col() + 16 * j, k, b[j]);
    }
};

// acc += the product of one stage. The fragments of the next 16 positions are on their way while 16 are multiplied.
template <class T, class A, class B>
static __device__ __forceinline__ void multiply_stage(const bf16* a_tile, const bf16* b_tile, typename T::Acc& acc) {
    Fragments<T> fragments[2];
    fragments[0].template load<A, B>(a_tile, b_tile, 0);
#pragma unroll
    for (int step = 0; step < kDepth / 16; step++) {
        if (step + 1 < kDepth / 16) fragments[(step + 1) % 2].template load<A, B>(a_tile, b_tile, 16 * (step + 1));
        const Fragments<T>& now = fragments[step % 2];
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) {
#pragma unroll
            for (int j = 0; j < T::kFragmentsN; j++) {
                mma_m16n8k16_bf16(acc.at[i][j], now.a[i], now.b[j / 2][j % 2], acc.at[i][j]);
            }
        }
    }
}

// acc += the product over `num_k_tiles` k-tiles of kDepth positions. `gather.start(a, b)` starts this thread's copies of the
// next k-tile. Every thread of the block must call it; on return shared memory is free.
template <class T, class A, class B, class Gather>
static __device__ __forceinline__ void multiply(Gather& gather, int32_t num_k_tiles, typename T::Acc& acc) {
    constexpr int kStageElems = A::kElems + B::kElems;
    bf16* stages = dynamic_shared<bf16>();
#pragma unroll
    for (int stage = 0; stage < kStages - 1; stage++) {
        if (stage < num_k_tiles) gather.start(stages + stage * kStageElems, stages + stage * kStageElems + A::kElems);
        cp_async_commit();
    }
    int read = 0, write = kStages - 1;
    for (int32_t k_tile = 0; k_tile < num_k_tiles; k_tile++) {
        cp_async_wait<kStages - 2>();
        // Makes the stage visible to all, and says that all have read the stage that is written next.
        __syncthreads();
        if (k_tile + kStages - 1 < num_k_tiles) {
            gather.start(stages + write * kStageElems, stages + write * kStageElems + A::kElems);
        }
        cp_async_commit();
        multiply_stage<T, A, B>(stages + read * kStageElems, stages + read * kStageElems + A::kElems, acc);
        read = read + 1 == kStages ? 0 : read + 1;
        write = write + 1 == kStages ? 0 : write + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
}

// Calls `each(row, col, two neighbouring results)` for the results this thread holds.
template <class T, class Each>
static __device__ __forceinline__ void for_each_pair(const typename T::Acc& acc, Each each) {
    const int row = T::warp_row() + T::lane() / 4, col = T::warp_col() + T::lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < T::kFragmentsM; i++) {
#pragma unroll
        for (int j = 0; j < T::kFragmentsN; j++) {
            const float* at = acc.at[i][j];
            each(row + 16 * i, col + 8 * j, at[0], at[1]);
            each(row + 16 * i + 8, col + 8 * j, at[2], at[3]);
        }
    }
}

}  // namespace mma_tile
