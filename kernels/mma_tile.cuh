// GEMM tiles on tensor cores: how operands lie in shared memory, how warps read them, and the pipeline around it.
//
// A stage holds kDepth gemm_k positions of both operands, or half as many where they are f32. An operand lies as its tensor gives
// it, 16 bytes at a time: either gemm_k runs along the lines (x and w of fprop, dy of dgrad) or the tile's rows or columns do (w
// of dgrad, both operands of wgrad). `ldmatrix` reads the first kind as the fragments want it and transposes the second, at the
// same cost, so nothing is transposed in memory. Chunks of 16 bytes are stored at chunk ^ (line % 8): the eight lines that
// `ldmatrix` reads together, and the eight that lanes write together, then fall into different banks.
//
// Elements of f32 are multiplied as TF32, which they are rounded to in registers. `ldmatrix` does not transpose 32-bit elements:
// a lane loads its own, and chunks are stored at chunk ^ (line % 4 * 2), so that the four lines of eight elements that a warp
// loads together fall into different banks.
#pragma once

#include "mma.cuh"

namespace mma_tile {

// Positions of gemm_k in a stage of bf16.
FOR_RUST constexpr int kDepth = 64;
// bf16 of one copy.
constexpr int kChunkElems = 8;
// Bytes of one copy.
FOR_RUST constexpr int kChunkBytes = 16;
// Chunks of gemm_k positions in a stage, and in one product of a warp.
FOR_RUST constexpr int kDepthChunks = 8;
constexpr int kStepChunks = 2;
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
template <int kExtent, class Element = bf16>
struct MnMajor;

// Elements of a copy, and positions of gemm_k in a stage of them.
template <class Element>
constexpr int kChunkElemsOf = kChunkBytes / static_cast<int>(sizeof(Element));
template <class Element>
constexpr int kDepthOf = kDepthChunks * kChunkElemsOf<Element>;
static_assert(kDepth == kDepthOf<bf16> && kChunkElems == kChunkElemsOf<bf16>, "what is said of bf16");

// A block's tile of operands of a type, divided among kWarpsDown * kWarpsAcross warps, and the stages of its pipeline.
template <int kRows_, int kCols_, int kWarpsDown_, int kWarpsAcross_, int kStages_ = mma_tile::kStages, class Element_ = bf16>
struct Tile {
    using Element = Element_;
    static constexpr int kRows = kRows_, kCols = kCols_, kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
    static constexpr int kDepth = kDepthOf<Element>, kChunkElems = kChunkElemsOf<Element>;
    static constexpr int kStages = kStages_, kSharedBytes = kStages * (kRows + kCols) * kDepthChunks * kChunkBytes;
    static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpThreads;
    static constexpr int kWarpRows = kRows / kWarpsDown, kWarpCols = kCols / kWarpsAcross;
    // Products m16n8k16, of TF32 m16n8k8, of a warp in each direction.
    static constexpr int kFragmentsM = kWarpRows / 16, kFragmentsN = kWarpCols / 8;
    static_assert(kFragmentsM * 16 == kWarpRows && kFragmentsN * 8 == kWarpCols && kFragmentsN % 2 == 0, "whole fragments only");

    static constexpr bool kIsOfGroups = false;

    template <int kExtent>
    using KMajorLines = KMajor<kExtent>;
    template <int kExtent>
    using MnMajorLines = MnMajor<kExtent, Element>;

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
using Tile128x128Tf32 = Tile<128, 128, 2, 2, kStages, float>;
using Tile64x128Tf32 = Tile<64, 128, 2, 2, kStages, float>;
using Tile64x64Tf32 = Tile<64, 64, 2, 2, kStages, float>;
using Tile128x64BesideL1Tf32 = Tile<128, 64, 2, 2, kStagesBesideL1, float>;
using Tile64x64BesideL1Tf32 = Tile<64, 64, 2, 2, kStagesBesideL1, float>;

// How an operand lies in a stage: lines of kChunks chunks of 16 bytes, which the swizzle moves by kSpread from line to line.
// Offsets are bytes, so that what is constant of them becomes part of an instruction.
template <int kLines_, int kChunks_, int kSpread = 1>
struct Lines {
    static constexpr int kLines = kLines_, kChunks = kChunks_, kLineBytes = kChunks * 16, kBytes = kLines * kLineBytes;
    static_assert(kChunks % 8 == 0, "the swizzle needs eight chunks a line");

    static __device__ __forceinline__ int offset(int line, int chunk) {
        return line * kLineBytes + (chunk ^ (line * kSpread % 8)) * 16;
    }

    // The same chunk so many lines below, a multiple of four: of the swizzle one bit changes, or none.
    static __device__ __forceinline__ int below(int at, int lines) {
        return (at ^ (lines * kSpread % 8 * 16)) + lines * kLineBytes;
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
struct KMajor : Lines<kExtent, kDepthChunks> {
    // What this lane reads of the rows from `row` on at the first positions, and of the columns from `col` on.
    static __device__ __forceinline__ int a_offset(int row) {
        return second_below([=](int line, int chunk) { return KMajor::offset(row + line, chunk); });
    }
    static __device__ __forceinline__ int b_offset(int col) {
        return second_right([=](int line, int chunk) { return KMajor::offset(col + line, chunk); });
    }

    // The `i`-th 16 rows or columns behind `at` at the positions of product `step`.
    static __device__ __forceinline__ void load_a(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        ldmatrix_x4(fragment, stage + (at ^ step * kStepChunks * kChunkBytes) + i * 16 * KMajor::kLineBytes);
    }
    static __device__ __forceinline__ void load_b(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        load_a(stage, at, i, step, fragment);
    }
};

// The tile's rows or columns run along the lines; as KMajor with lines and chunks exchanged.
template <int kExtent>
struct MnMajor<kExtent, bf16> : Lines<kDepth, kExtent / kChunkElems> {
    static __device__ __forceinline__ int a_offset(int row) {
        return second_right([=](int line, int chunk) { return MnMajor::offset(line, row / kChunkElems + chunk); });
    }
    static __device__ __forceinline__ int b_offset(int col) {
        return second_below([=](int line, int chunk) { return MnMajor::offset(line, col / kChunkElems + chunk); });
    }

    static __device__ __forceinline__ void load_a(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        ldmatrix_x4_trans(fragment, stage + (at ^ i * 32) + step * 16 * MnMajor::kLineBytes);
    }
    static __device__ __forceinline__ void load_b(const char* stage, int at, int i, int step, uint32_t (&fragment)[4]) {
        load_a(stage, at, i, step, fragment);
    }
};

template <int kExtent>
struct MnMajor<kExtent, float> : Lines<kDepthOf<float>, kExtent / kChunkElemsOf<float>, 2> {
    // This lane's element of the first four positions and of the eight rows or columns from `first` on.
    static __device__ __forceinline__ int a_offset(int first) {
        const int lane = static_cast<int>(threadIdx.x) % kWarpThreads, along = first + lane / 4;
        return MnMajor::offset(lane % 4, along / 4) + along % 4 * static_cast<int>(sizeof(float));
    }
    static __device__ __forceinline__ int b_offset(int first) { return a_offset(first); }

    // Four positions or eight rows or columns from it: lines apart, of which the swizzle knows nothing, or two chunks.
    static __device__ __forceinline__ uint32_t at(const char* stage, int at, int i, int step, int fours, int eights) {
        const int line = step * 8 + fours * 4, chunk = i * 4 + eights * 2;
        return *reinterpret_cast<const uint32_t*>(stage + (at ^ chunk * 16) + line * MnMajor::kLineBytes);
    }

    static __device__ __forceinline__ void load_a(const char* stage, int from, int i, int step, uint32_t (&fragment)[4]) {
#pragma unroll
        for (int n = 0; n < 4; n++) fragment[n] = at(stage, from, i, step, n / 2, n % 2);
    }
    static __device__ __forceinline__ void load_b(const char* stage, int from, int i, int step, uint32_t (&fragment)[4]) {
#pragma unroll
        for (int n = 0; n < 4; n++) fragment[n] = at(stage, from, i, step, n % 2, n / 2);
    }
};

// acc += a b, of 16 positions of bf16 or eight of f32.
template <class Element>
static __device__ __forceinline__ void multiply_fragments(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (sizeof(Element) == sizeof(float)) {
        mma_m16n8k8_tf32(acc, a, b, acc);
    } else {
        mma_m16n8k16_bf16(acc, a, b, acc);
    }
}

// The fragments of one product's positions: of A 16 rows each, of B 16 columns each, two products wide.
template <class T>
struct Fragments {
    uint32_t a[T::kFragmentsM][4], b[T::kFragmentsN / 2][4];

    template <class A, class B>
    __device__ __forceinline__ void load(const char* stage, int a_at, int b_at, int step) {
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) A::load_a(stage, a_at, i, step, a[i]);
#pragma unroll
        for (int j = 0; j < T::kFragmentsN / 2; j++) B::load_b(stage, b_at, j, step, b[j]);
    }

    // To what the tensor cores take.
    __device__ __forceinline__ void round() {
        if constexpr (sizeof(typename T::Element) == sizeof(float)) {
#pragma unroll
            for (int i = 0; i < T::kFragmentsM * 4; i++) a[i / 4][i % 4] = to_tf32(a[i / 4][i % 4]);
#pragma unroll
            for (int j = 0; j < T::kFragmentsN * 2; j++) b[j / 4][j % 4] = to_tf32(b[j / 4][j % 4]);
        }
    }
};

// acc += the product of one stage, whose operands this thread reads from `a_at` and `b_at` on. The fragments of the next
// product are on their way while those of one are multiplied.
template <class T, class A, class B>
static __device__ __forceinline__ void multiply_stage(const char* stage, int a_at, int b_at, typename T::Acc& acc) {
    constexpr int kSteps = kDepthChunks / kStepChunks;
    Fragments<T> fragments[2];
    fragments[0].template load<A, B>(stage, a_at, b_at, 0);
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
        if (step + 1 < kSteps) fragments[(step + 1) % 2].template load<A, B>(stage, a_at, b_at, step + 1);
        Fragments<T>& now = fragments[step % 2];
        now.round();
#pragma unroll
        for (int i = 0; i < T::kFragmentsM; i++) {
#pragma unroll
            for (int j = 0; j < T::kFragmentsN; j++) {
                const uint32_t b[2] = {now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]};
                multiply_fragments<typename T::Element>(acc.at[i][j], now.a[i], b);
            }
        }
    }
}

// Goes over `num_k_tiles` k-tiles of T::kDepth positions, in stages. `gather.start(a, b)` starts this thread's copies of the next
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
