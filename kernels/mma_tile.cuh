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
// Where L1 is to hold what taps share, one more for narrow tiles: two blocks of 96 KiB leave it more than three of 72.
FOR_RUST constexpr int kStagesBesideL1 = 4;
// Of tiles of 256 rows, of which two blocks fit on a multiprocessor.
FOR_RUST constexpr int kStagesOfLong = 2;
// Floats added to a line of the result, so that the eight lines a warp writes together start in different banks.
constexpr int kResultPad = 8;

template <int kExtent>
struct KMajor;
template <int kExtent>
struct MnMajor;

// A block's tile, divided among kWarpsDown * kWarpsAcross warps, and the stages of its pipeline.
template <int kRows_, int kCols_, int kWarpsDown_, int kWarpsAcross_, int kStages_ = mma_tile::kStages>
struct Tile {
    static constexpr int kRows = kRows_, kCols = kCols_, kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
    static constexpr int kStages = kStages_, kSharedBytes = kStages * (kRows + kCols) * kDepth * 2;
    static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpThreads;
    static constexpr int kWarpRows = kRows / kWarpsDown, kWarpCols = kCols / kWarpsAcross;
    // Products m16n8k16 of a warp in each direction.
    static constexpr int kFragmentsM = kWarpRows / 16, kFragmentsN = kWarpCols / 8;
    static_assert(kFragmentsM * 16 == kWarpRows && kFragmentsN * 8 == kWarpCols && kFragmentsN % 2 == 0, "whole fragments only");

    static constexpr bool kIsOfGroups = false;

    template <int kExtent>
    using KMajorLines = KMajor<kExtent>;
    template <int kExtent>
    using MnMajorLines = MnMajor<kExtent>;

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

// A warp's part is as square and as large as registers allow: 64x64 multiplies and adds 16 times for each byte it reads from
// shared memory, 32x32 eight times. With 64x64 a thread takes up to 245 registers, so a multiprocessor holds eight warps, two
// blocks of four: while one waits or stores, the other multiplies.
using Tile128x128 = Tile<128, 128, 2, 2>;
using Tile128x64 = Tile<128, 64, 2, 2>;
using Tile64x128 = Tile<64, 128, 2, 2>;
using Tile64x64 = Tile<64, 64, 2, 2>;
using Tile256x64 = Tile<256, 64, 4, 1, kStagesOfLong>;
using Tile128x64BesideL1 = Tile<128, 64, 2, 2, kStagesBesideL1>;
using Tile64x64BesideL1 = Tile<64, 64, 2, 2, kStagesBesideL1>;

// How an operand lies in a stage: lines of kChunks chunks of 16 bytes. Offsets are bytes, so that what is constant of them
// becomes part of an instruction.
template <int kLines_, int kChunks_>
struct Lines {
    static constexpr int kLines = kLines_, kChunks = kChunks_, kLineBytes = kChunks * 16, kBytes = kLines * kLineBytes;
    static_assert(kChunks % 8 == 0, "the swizzle needs eight chunks a line");

    static __device__ __forceinline__ int offset(int line, int chunk) {
        return line * kLineBytes + (chunk ^ (line % 8)) * 16;
    }

    // The same chunk so many lines below, a multiple of four: of the swizzle one bit changes, or none.
    static __device__ __forceinline__ int below(int at, int lines) {
        return (at ^ (lines % 8 * 16)) + lines * kLineBytes;
    }
};

// The two ways in which `ldmatrix` reads four 8x8 matrices: the second is right of the first, or below it. Calls
// `offset(line, chunk)` with the row that this lane names.
template <class Offset>
static __device__ __forceinline__ int second_below(Offset offset) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    return offset(lane % 16, lane / 16);
}
template <class Offset>
static __device__ __forceinline__ int second_right(Offset offset) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    return offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// gemm_k runs along the lines. A lane reads the same chunks of every eighth line, so it needs one offset: what follows
// differs from it by whole lines, or in bits that the swizzle leaves apart.
template <int kExtent>
struct KMajor : Lines<kExtent, kDepth / kChunkElems> {
    // What this lane reads of the rows from `row` on at the first positions, and of the columns from `col` on.
    static __device__ __forceinline__ int a_offset(int row) {
        return second_below([=](int line, int chunk) { return KMajor::offset(row + line, chunk); });
    }
    static __device__ __forceinline__ int b_offset(int col) {
        return second_right([=](int line, int chunk) { return KMajor::offset(col + line, chunk); });
    }

    // The `i`-th 16 rows or columns behind `at`, positions 16 * step .. 16 * step + 15.
    static __device__ __forceinline__ void load(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        ldmatrix_x4(fragment, stage + (at ^ step * 32) + i * 16 * KMajor::kLineBytes);
    }
};

// The tile's rows or columns run along the lines; as KMajor with lines and chunks exchanged.
template <int kExtent>
struct MnMajor : Lines<kDepth, kExtent / kChunkElems> {
    static __device__ __forceinline__ int a_offset(int row) {
        return second_right([=](int line, int chunk) { return MnMajor::offset(line, row / kChunkElems + chunk); });
    }
    static __device__ __forceinline__ int b_offset(int col) {
        return second_below([=](int line, int chunk) { return MnMajor::offset(line, col / kChunkElems + chunk); });
    }

    static __device__ __forceinline__ void load(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        ldmatrix_x4_trans(fragment, stage + (at ^ i * 32) + step * 16 * MnMajor::kLineBytes);
    }
};

// The fragments of 16 positions: of A 16 rows each, of B 16 columns each, two products wide.
template <class T>
struct Fragments {
    uint32_t a[T::kFragmentsM][4], b[T::kFragmentsN / 2][4];

    template <class A, class B>
    __device__ __forceinline__ void load(const char* stage, int a_at, int b_at, int step) {
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) A::load(stage, a_at, i, step, a[i]);
#pragma unroll
        for (int j = 0; j < T::kFragmentsN / 2; j++) B::load(stage, b_at, j, step, b[j]);
    }
};

// acc += the product of one stage, whose operands this thread reads from `a_at` and `b_at` on. The fragments of the next 16
// positions are on their way while 16 are multiplied.
template <class T, class A, class B>
static __device__ __forceinline__ void multiply_stage(const char* stage, int a_at, int b_at, typename T::Acc& acc) {
    Fragments<T> fragments[2];
    fragments[0].template load<A, B>(stage, a_at, b_at, 0);
#pragma unroll
    for (int step = 0; step < kDepth / 16; step++) {
        if (step + 1 < kDepth / 16) fragments[(step + 1) % 2].template load<A, B>(stage, a_at, b_at, step + 1);
        const Fragments<T>& now = fragments[step % 2];
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) {
#pragma unroll
            for (int j = 0; j < T::kFragmentsN; j++) {
                const uint32_t b[2] = {now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]};
                mma_m16n8k16_bf16(acc.at[i][j], now.a[i], b, acc.at[i][j]);
            }
        }
    }
}

// Goes over `num_k_tiles` k-tiles of kDepth positions, in stages. `gather.start(a, b)` starts this thread's copies of the next
// k-tile. For each, `prepare()` comes before the barrier that makes a stage visible and says that all have read the one that is
// written next; then `multiply(stage, start_next)` multiplies the stage that begins at byte `stage`, and on the way calls
// `start_next()`, which starts the copies into the other. On return this thread's copies are there.
template <class T, class A, class B, class Gather, class Prepare, class Multiply>
static __device__ __forceinline__ void for_each_stage(Gather& gather, int32_t num_k_tiles, Prepare prepare, Multiply multiply) {
    constexpr int kStages = T::kStages, kStageBytes = A::kBytes + B::kBytes;
    char* stages = dynamic_shared<char>();
#pragma unroll
    for (int stage = 0; stage < kStages - 1; stage++) {
        if (stage < num_k_tiles) gather.start(stages + stage * kStageBytes, stages + stage * kStageBytes + A::kBytes);
        cp_async_commit();
    }
    int read = 0, write = (kStages - 1) * kStageBytes;
    for (int32_t k_tile = 0; k_tile < num_k_tiles; k_tile++) {
        cp_async_wait<kStages - 2>();
        prepare();
        __syncthreads();
        multiply(read, [&] {
            if (k_tile + kStages - 1 < num_k_tiles) gather.start(stages + write, stages + write + A::kBytes);
            cp_async_commit();
        });
        read = read + kStageBytes == kStages * kStageBytes ? 0 : read + kStageBytes;
        write = write + kStageBytes == kStages * kStageBytes ? 0 : write + kStageBytes;
    }
    cp_async_wait<0>();
}

// acc += the product over `num_k_tiles` k-tiles, which `gather` copies as `for_each_stage` says. Every thread of the block must
// call it; on return shared memory is free.
template <class T, class A, class B, class Gather>
static __device__ __forceinline__ void multiply(Gather& gather, int32_t num_k_tiles, typename T::Acc& acc) {
    const char* stages = dynamic_shared<char>();
    const int a_at = A::a_offset(T::warp_row()), b_at = A::kBytes + B::b_offset(T::warp_col());
    for_each_stage<T, A, B>(gather, num_k_tiles, [] {}, [&](int stage, auto start_next) {
        start_next();
        multiply_stage<T, A, B>(stages, stage + a_at, stage + b_at, acc);
    });
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
