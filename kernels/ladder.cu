// ladder: C = A B, from a thread an output to the tiles of the tensor-core kernels, one idea a step: the kernels at the end, in
//           order; README.md walks through them
// Math      c[i,j] = sum_l a[i,l] * b[l,j]
// Layout    a [m, k], b [k, n], c [m, n], row by row, all bf16; f32 accumulation
// GEMM      gemm_m = m, gemm_n = n, gemm_k = k
// Mapping   block (x, y) -> the x-th tile of columns and the y-th of rows of c: naive 128x1, coalesced 1x128, wide 128x128, all
//           others 64x64
//           shared: shared 16 positions of k of both tiles, tensor and swizzled 64, pipelined and wide three stages of 64
// Cost      2*k flop per element of c; DRAM floor = bytes(a) + bytes(b) + bytes(c). Launched by no operation: to be read, and
//           counted by `residuum profile --ladder`
// Numerics  each output is one ascending sum over k, from `tensor` on 16 positions at a time, rounded to bf16 once; no atomics,
//           repeatable
// Requires  m and n multiples of 128, k of 64, 16-byte aligned matrices; m below 2^16 in `coalesced`
// Reference f64 loops in tests/ladder.rs
#include "mma_tile.cuh"

struct LadderArgs {
    const void* a;
    const void* b;
    void* c;
    uint32_t n, k;
};

namespace ladder {

using mma_tile::kChunkElems;
using mma_tile::kDepth;

constexpr int kThreads = 128;

// An output by a thread that reads its row of a and its column of b.
static __device__ __forceinline__ void one_output(const LadderArgs& args, uint32_t row, uint32_t col) {
    const bf16* a = static_cast<const bf16*>(args.a) + static_cast<uint64_t>(row) * args.k;
    const bf16* b = static_cast<const bf16*>(args.b) + col;
    float sum = 0.0f;
    for (uint32_t k = 0; k < args.k; k++) {
        sum += static_cast<float>(a[k]) * static_cast<float>(b[static_cast<uint64_t>(k) * args.n]);
    }
    static_cast<bf16*>(args.c)[static_cast<uint64_t>(row) * args.n + col] = bf16(sum);
}

// A tile as its matrix gives it: lines of kChunks chunks of 16 bytes, one behind another.
template <int kLines_, int kChunks_>
struct Plain {
    static constexpr int kLines = kLines_, kChunks = kChunks_, kLineBytes = kChunks * 16, kBytes = kLines * kLineBytes;

    static __device__ __forceinline__ int offset(int line, int chunk) { return line * kLineBytes + chunk * 16; }
};

// A block's way along k: the next positions of its rows of a, laid out as A, and of its columns of b, as B.
template <class A, class B>
struct Tiles {
    const bf16 *a, *b;
    const uint32_t k, n;
    uint32_t position = 0;  // along k

    __device__ __forceinline__ explicit Tiles(const LadderArgs& args)
        : a(static_cast<const bf16*>(args.a) + static_cast<uint64_t>(blockIdx.y) * A::kLines * args.k),
          b(static_cast<const bf16*>(args.b) + blockIdx.x * (B::kChunks * kChunkElems)),
          k(args.k),
          n(args.n) {}

    // Calls `copy(to, from)` for this thread's chunks of both tiles.
    template <class Copy>
    __device__ __forceinline__ void next(char* a_tile, char* b_tile, Copy copy) {
        for_each_chunk<A>(a_tile, a + position, k, copy);
        for_each_chunk<B>(b_tile, b + static_cast<uint64_t>(position) * n, n, copy);
        position += B::kLines;
    }

    // Through registers.
    __device__ __forceinline__ void load(char* a_tile, char* b_tile) {
        next(a_tile, b_tile, [](char* to, const bf16* from) {
            store_vec(reinterpret_cast<bf16*>(to), load_vec<kChunkElems>(from));
        });
    }

    // Asynchronously, as mma_tile::multiply asks.
    __device__ __forceinline__ void start(char* a_tile, char* b_tile) {
        next(a_tile, b_tile, [](char* to, const bf16* from) { cp_async_16(to, from); });
    }

private:
    template <class Lines, class Copy>
    static __device__ __forceinline__ void for_each_chunk(char* tile, const bf16* from, uint32_t pitch, Copy copy) {
        constexpr int kApart = kThreads / Lines::kChunks;
        const int first = static_cast<int>(threadIdx.x) / Lines::kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % Lines::kChunks;
        from += static_cast<uint64_t>(first) * pitch + chunk * kChunkElems;
#pragma unroll
        for (int line = 0; line < Lines::kLines; line += kApart) {
            copy(tile + Lines::offset(first + line, chunk), from + static_cast<uint64_t>(line) * pitch);
        }
    }
};

// Calls `multiply(tiles)` for one pair of tiles after another: A's, and behind them B's.
template <class A, class B, class Multiply>
static __device__ __forceinline__ void for_each_tile(const LadderArgs& args, Multiply multiply) {
    char* a_tile = dynamic_shared<char>();
    Tiles<A, B> tiles(args);
#pragma unroll 1  // a turn taken out of the loop would cost registers
    for (uint32_t k = 0; k < args.k; k += B::kLines) {
        tiles.load(a_tile, a_tile + A::kBytes);
        __syncthreads();
        multiply(a_tile);
        __syncthreads();  // all have read what the next turn writes over
    }
}

// A warp has 16 rows of the tile, a lane two of its columns. The loop over a tile is unrolled, so lanes ask for one element
// of a, which serves them all, and for neighbouring ones of b.
static __device__ __forceinline__ void through_shared(const LadderArgs& args) {
    constexpr int kTile = 64, kTileDepth = 16, kRows = kTile / (kThreads / kWarpThreads);
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    const int first = static_cast<int>(threadIdx.x) / kWarpThreads * kRows;
    float acc[kRows][2] = {};
    using A = Plain<kTile, kTileDepth / kChunkElems>;
    using B = Plain<kTileDepth, kTile / kChunkElems>;
    for_each_tile<A, B>(args, [&](const char* tiles) {
        const bf16* a_tile = reinterpret_cast<const bf16*>(tiles);
        const bf16* b_tile = reinterpret_cast<const bf16*>(tiles + A::kBytes);
#pragma unroll
        for (int k = 0; k < kTileDepth; k++) {
            const float b[2] = {b_tile[k * kTile + lane], b_tile[k * kTile + lane + kWarpThreads]};
#pragma unroll
            for (int i = 0; i < kRows; i++) {
                const float a = a_tile[(first + i) * kTileDepth + k];
                acc[i][0] += a * b[0];
                acc[i][1] += a * b[1];
            }
        }
    });
    bf16* c = static_cast<bf16*>(args.c) + static_cast<uint64_t>(blockIdx.y) * kTile * args.n + blockIdx.x * kTile;
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        bf16* row = c + static_cast<uint64_t>(first + i) * args.n;
        row[lane] = bf16(acc[i][0]);
        row[lane + kWarpThreads] = bf16(acc[i][1]);
    }
}

// As mma_tile::KMajor and MnMajor read them, but where the chunks lie: the eight lines that `ldmatrix` reads together start in
// the same bank.
struct PlainRows : Plain<64, kDepth / kChunkElems> {
    static __device__ __forceinline__ int a_offset(int row) {
        return mma_tile::second_below([=](int line, int chunk) { return offset(row + line, chunk); });
    }

    static __device__ __forceinline__ void load_a(const char* tiles, int at, int i, int step, uint32_t (&a)[4]) {
        ldmatrix_x4(a, tiles + at + step * 32 + i * 16 * kLineBytes);
    }
};

struct PlainCols : Plain<kDepth, 64 / kChunkElems> {
    static __device__ __forceinline__ int b_offset(int col) {
        return mma_tile::second_below([=](int line, int chunk) { return offset(line, col / kChunkElems + chunk); });
    }

    static __device__ __forceinline__ void load_b(const char* tiles, int at, int j, int step, uint32_t (&b)[4]) {
        ldmatrix_x4_trans(b, tiles + at + j * 32 + step * 16 * kLineBytes);
    }
};

template <class T>
static __device__ __forceinline__ void write(const LadderArgs& args, const typename T::Acc& acc) {
    bf16* c = static_cast<bf16*>(args.c) + static_cast<uint64_t>(blockIdx.y) * T::kRows * args.n + blockIdx.x * T::kCols;
    mma_tile::for_each_pair<T>(acc, [&](int row, int col, float first, float second) {
        store_vec(c + static_cast<uint64_t>(row) * args.n + col, Vec<bf16, 2>{bf16(first), bf16(second)});
    });
}

// A warp has a quarter of the tile, in fragments.
template <class A, class B>
static __device__ __forceinline__ void on_tensor_cores(const LadderArgs& args) {
    using T = mma_tile::Tile64x64;
    typename T::Acc acc;
    for_each_tile<A, B>(args, [&](const char* tiles) {
        const int a_at = A::a_offset(T::warp_row()), b_at = A::kBytes + B::b_offset(T::warp_col());
        mma_tile::multiply_stage<T, A, B>(tiles, a_at, b_at, acc);
    });
    write<T>(args, acc);
}

template <class T>
static __device__ __forceinline__ void pipelined(const LadderArgs& args) {
    using A = mma_tile::KMajor<T::kRows>;
    using B = mma_tile::MnMajor<T::kCols>;
    typename T::Acc acc;
    Tiles<A, B> tiles(args);
    mma_tile::multiply<T, A, B>(tiles, static_cast<int32_t>(args.k / kDepth), acc);
    write<T>(args, acc);
}

}  // namespace ladder

KERNEL(ladder_naive, LadderArgs, 128) { ladder::one_output(args, blockIdx.y * blockDim.x + threadIdx.x, blockIdx.x); }
KERNEL(ladder_coalesced, LadderArgs, 128) { ladder::one_output(args, blockIdx.y, blockIdx.x * blockDim.x + threadIdx.x); }
KERNEL(ladder_shared, LadderArgs, 128) { ladder::through_shared(args); }
KERNEL(ladder_tensor, LadderArgs, 128, 4) { ladder::on_tensor_cores<ladder::PlainRows, ladder::PlainCols>(args); }
KERNEL(ladder_swizzled, LadderArgs, 128, 4) { ladder::on_tensor_cores<mma_tile::KMajor<64>, mma_tile::MnMajor<64>>(args); }
KERNEL(ladder_pipelined, LadderArgs, 128) { ladder::pipelined<mma_tile::Tile64x64>(args); }
KERNEL(ladder_wide, LadderArgs, 128) { ladder::pipelined<mma_tile::Tile128x128>(args); }
