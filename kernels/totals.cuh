// The second step of sums that were split over blocks: few sums of many addends each.
//
//   a block of 256 threads takes `columns` neighbouring sums; its 256 / columns rows of threads share the addends
//
//             sums ->                                 columns = 4: 64 rows, and thread t4 takes addends 1, 65, 129, ..
//   addends   | t0 | t1 | t2 | t3 |                   of the first of four sums
//    |        | t4 | t5 | t6 | t7 |
//    v        | ..                |
//
// What takes the time is waiting for memory, not adding. So there are as few columns as leave a thread about kTurns
// addends (`TotalGrid` in src/ops/launch.rs), and all of these are on their way before the first is added.
#pragma once

#include "common.cuh"

// Threads of a block.
FOR_RUST constexpr int kTotalThreads = 256;
// Addends that a thread loads before it adds them.
FOR_RUST constexpr int kTotalTurns = 8;

struct TotalTile {
    uint32_t columns;  // a power of two, at most kTotalThreads
    uint32_t rows;
    uint32_t row;      // of this thread
    uint64_t column;   // of this thread, counted over all blocks

    __device__ __forceinline__ explicit TotalTile(uint32_t columns)
        : columns(columns),
          rows(kTotalThreads / columns),
          row(threadIdx.x / columns),
          column(uint64_t{blockIdx.x} * columns + threadIdx.x % columns) {}

    // Calls `add(i, load(i))` for the addends of this thread, ascending, and `add(i, zero)` for as many behind the last as fill
    // its turns. Loads stand by themselves: under a condition that adding has, too, the compiler would put a load beside each
    // addition, and the next would wait for it.
    template <class Load, class Addend, class Add>
    __device__ __forceinline__ void for_each_addend(uint32_t count, Load load, const Addend& zero, Add add) const {
        for (uint32_t first = row; first < count; first += kTotalTurns * rows) {
            Addend addends[kTotalTurns];
            if (first + (kTotalTurns - 1) * rows < count) {
#pragma unroll
                for (uint32_t turn = 0; turn < kTotalTurns; turn++) addends[turn] = load(first + turn * rows);
            } else {
#pragma unroll
                for (uint32_t turn = 0; turn < kTotalTurns; turn++) {
                    const uint32_t i = first + turn * rows;
                    addends[turn] = i < count ? load(i) : zero;
                }
            }
#pragma unroll
            for (uint32_t turn = 0; turn < kTotalTurns; turn++) add(first + turn * rows, addends[turn]);
        }
    }

    // Adds N values over the rows; the threads of row 0 get the sums. Every thread of the block must call it, those
    // without addends with zeros, and at most once in a kernel.
    // Order: lanes of a warp that share a column (a butterfly), then the warps one after another.
    template <int N, class T>
    __device__ __forceinline__ void add_rows(T (&values)[N]) const {
        __shared__ T shared[N][kTotalThreads];
        // A few blocks leave most of a GPU to the next launch. A launch that fills the GPU does not say so early:
        // multiprocessors that are done first would get more blocks of the next than the others.
        let_next_launch_begin();
#pragma unroll
        for (int n = 0; n < N; n++) {
            for (uint32_t distance = kWarpThreads / 2; distance >= columns; distance /= 2) {
                values[n] += __shfl_xor_sync(0xffffffffu, values[n], static_cast<int>(distance));
            }
            shared[n][threadIdx.x] = values[n];
        }
        __syncthreads();
        if (row != 0) return;
        const uint32_t apart = max(columns, static_cast<uint32_t>(kWarpThreads));
#pragma unroll
        for (int n = 0; n < N; n++) {
            for (uint32_t at = threadIdx.x + apart; at < kTotalThreads; at += apart) values[n] += shared[n][at];
        }
    }
};
