// GEMM tiles on Hopper's tensor cores: as mma_tile.cuh, but warp groups multiply (wgmma.cuh), which read the operands from shared
// memory themselves. A warp of `mma_m16n8k16` reads what it multiplies through its registers, 16 products for each byte at most;
// a group reads 64 rows and 128 columns once for 43, and its threads keep their registers for the sums.
//
// What is gathered is what mma_tile.cuh has, in stages that lie the same: where gemm_k runs along the lines they are bit for bit
// the operands of wgmma.cuh; where rows or columns do, in panels of 64 of them.
#pragma once

#include "mma_tile.cuh"
#include "wgmma.cuh"

namespace mma_tile {

// Threads of a warp group.
constexpr int kGroupThreads = 4 * kWarpThreads;

// Rows or columns run along the lines, in panels of 64 of them: lines of 128 bytes, a panel behind the other.
template <int kExtent>
struct MnPanels {
    static constexpr int kLines = kDepth, kChunks = kExtent / kChunkElems;
    static constexpr int kPanelBytes = kLines * 128, kBytes = kExtent / 64 * kPanelBytes;
    static_assert(kExtent % 64 == 0, "whole panels");

    static __device__ __forceinline__ int offset(int line, int chunk) {
        return chunk / 8 * kPanelBytes + line * 128 + (chunk % 8 ^ (line % 8)) * 16;
    }
    // As Lines::below.
    static __device__ __forceinline__ int below(int at, int lines) { return (at ^ (lines % 8 * 16)) + lines * 128; }

    // As an operand of wgmma.cuh: from row or column `first` on, a multiple of 64, and how far 16 positions and 64 rows lie apart.
    static constexpr bool kIsTrans = true;
    static constexpr int kStepBytes = 16 * 128, kRowsBytes = kPanelBytes;
    static __device__ __forceinline__ uint64_t operand(uint32_t address, int first) {
        return wgmma_operand(address + first / 64 * kPanelBytes, kPanelBytes);
    }
};

// KMajor as an operand of wgmma.cuh.
template <int kExtent>
struct KLines : KMajor<kExtent> {
    static constexpr bool kIsTrans = false;
    static constexpr int kStepBytes = 16 * 2, kRowsBytes = 64 * 128;
    static __device__ __forceinline__ uint64_t operand(uint32_t address, int first) {
        return wgmma_operand(address + first * 128, 0);
    }
};

// A block's tile, divided among kGroupsDown * kGroupsAcross warp groups.
template <int kRows_, int kCols_, int kGroupsDown, int kGroupsAcross, int kStages_ = mma_tile::kStages>
struct GroupTile {
    using Element = bf16;
    static constexpr int kRows = kRows_, kCols = kCols_;
    static constexpr int kDepth = mma_tile::kDepth, kChunkElems = mma_tile::kChunkElems;
    static constexpr int kStages = kStages_, kSharedBytes = kStages * (kRows + kCols) * kDepth * 2;
    static constexpr int kThreads = kGroupsDown * kGroupsAcross * kGroupThreads;
    static constexpr int kGroupRows = kRows / kGroupsDown, kWarpCols = kCols / kGroupsAcross;
    // Products of 64 rows.
    static constexpr int kProducts = kGroupRows / 64;
    static_assert(kProducts * 64 == kGroupRows && (kWarpCols == 64 || kWarpCols == 128), "whole products only");

    static constexpr bool kIsOfGroups = true;

    template <int kExtent>
    using KMajorLines = KLines<kExtent>;
    template <int kExtent>
    using MnMajorLines = MnPanels<kExtent>;

    struct Acc {
        float at[kProducts][kWarpCols / 2] = {};
    };

    static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
    // The same for all lanes of a warp, which a compiler must be told where an operand depends on it.
    static __device__ __forceinline__ int group() {
        return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
    }
    static __device__ __forceinline__ int group_row() { return group() / kGroupsAcross * kGroupRows; }
    static __device__ __forceinline__ int warp_col() { return group() % kGroupsAcross * kWarpCols; }
};

using Groups128x128 = GroupTile<128, 128, 2, 1>;
using Groups128x64 = GroupTile<128, 64, 2, 1>;
using Groups64x128 = GroupTile<64, 128, 1, 2>;
using Groups64x64 = GroupTile<64, 64, 1, 1>;
using Groups256x64 = GroupTile<256, 64, 2, 1, kStagesOfLong>;
using Groups128x64BesideL1 = GroupTile<128, 64, 2, 1, kStagesBesideL1>;
using Groups64x64BesideL1 = GroupTile<64, 64, 1, 1, kStagesBesideL1>;

// As `multiply`.
template <class T, class A, class B, class Gather>
static __device__ __forceinline__ void multiply_by_groups(Gather& gather, int32_t num_k_tiles, typename T::Acc& acc) {
    const uint32_t address = wgmma_address(dynamic_shared<char>());
    // Their lowest bits are the start, in 16 bytes: what is added to it moves the operand.
    const uint64_t a = A::operand(address, T::group_row());
    const uint64_t b = B::operand(address + A::kBytes, T::warp_col());
    const auto prepare = [] {
        fence_proxy_async();
        // All products have read the stage that is written next.
        wgmma_wait<0>();
    };
    for_each_stage<T, A, B>(gather, num_k_tiles, prepare, [&](int stage, auto start_next) {
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kDepth / 16; step++) {
#pragma unroll
            for (int i = 0; i < T::kProducts; i++) {
                wgmma_k16_bf16<A::kIsTrans, B::kIsTrans>(acc.at[i], a + (stage + step * A::kStepBytes + i * A::kRowsBytes) / 16,
                                                         b + (stage + step * B::kStepBytes) / 16);
            }
        }
        wgmma_commit();
        start_next();
    });
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < T::kProducts; i++) wgmma_arrived(acc.at[i]);
    __syncthreads();
}

// As `for_each_pair`.
template <class T, class Each>
static __device__ __forceinline__ void for_each_pair_of_groups(const typename T::Acc& acc, Each each) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpThreads % 4;
    const int row = T::group_row() + 16 * warp + T::lane() / 4, col = T::warp_col() + T::lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < T::kProducts; i++) {
#pragma unroll
        for (int j = 0; j < T::kWarpCols / 8; j++) {
            const float* at = acc.at[i] + 4 * j;
            each(row + 64 * i, col + 8 * j, at[0], at[1]);
            each(row + 64 * i + 8, col + 8 * j, at[2], at[3]);
        }
    }
}

// `multiply` and `for_each_pair` by whatever multiplies this tile.
template <class T, class A, class B, class Gather>
static __device__ __forceinline__ void multiply_tile(Gather& gather, int32_t num_k_tiles, typename T::Acc& acc) {
    if constexpr (T::kIsOfGroups) {
        multiply_by_groups<T, A, B>(gather, num_k_tiles, acc);
    } else {
        multiply<T, A, B>(gather, num_k_tiles, acc);
    }
}

template <class T, class Each>
static __device__ __forceinline__ void for_each_pair_of_tile(const typename T::Acc& acc, Each each) {
    if constexpr (T::kIsOfGroups) {
        for_each_pair_of_groups<T>(acc, each);
    } else {
        for_each_pair<T>(acc, each);
    }
}

}  // namespace mma_tile
