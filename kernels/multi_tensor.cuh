// One launch over many tensors: the optimiser's updates, averages, sums of gradients, the gradient norm, bf16 copies of
// filters.
//
// A model has a hundred and more tensors, most of them tiny; a launch for each would cost more than the work. So the
// argument struct carries a table of them, and every block finds its chunk of 4096 elements in it:
//
//   blocks      0 1 2 3 4 | 5 | 6 | 7 8 9 ..
//   tensors     0         | 1 | 2 | 3 ..         first_block = {0, 5, 6, 7, ..}
//
// A kernel takes at most 4 KiB of arguments. Places are therefore counted from the arena in units of its alignment,
// 4 bytes instead of an address of 8, which lets the 161 tensors of a ResNet-50 pass in one launch.
#pragma once

#include "elementwise.cuh"

// Groups of tensors that one launch takes.
FOR_RUST constexpr int kMaxTensors = 164;
// Unit in which places in the arena are counted; every value starts at a multiple of it.
FOR_RUST constexpr uint32_t kPlaceBytes = 64;
// Elements of each tensor that one block takes.
FOR_RUST constexpr uint32_t kChunkElems = 4096;
constexpr uint32_t kTensorThreads = 256;

// Groups of kArity tensors of one size, f32 unless said otherwise; a parameter, its gradient and its velocity, say.
template <int kArity>
struct TensorTable {
    uint32_t num_tensors, reserved;
    uint32_t first_block[kMaxTensors];
    uint32_t num_elems[kMaxTensors];
    uint32_t places[kArity][kMaxTensors];

    // The last group whose first block is not after this block.
    __device__ __forceinline__ uint32_t find() const {
        uint32_t low = 0, high = num_tensors;
        while (high - low > 1) {
            const uint32_t middle = (low + high) / 2;
            (first_block[middle] <= blockIdx.x ? low : high) = middle;
        }
        return low;
    }

    // Member `which` of group `tensor`.
    template <class T = float>
    __device__ __forceinline__ T* tensor(uint64_t arena, int which, uint32_t tensor) const {
        return reinterpret_cast<T*>(arena + uint64_t{places[which][tensor]} * kPlaceBytes);
    }
};

// Calls `body(width, at)` for all elements of the block's chunk of group `tensor`: 16 bytes a thread and turn, then the
// last few elements one by one. `at` counts from the start of the tensors.
template <class Table, class Body>
static __device__ __forceinline__ void for_each_in_chunk(const Table& table, uint32_t tensor, Body body) {
    constexpr int kWidth = kVecElems<float>;
    const uint32_t first = (blockIdx.x - table.first_block[tensor]) * kChunkElems;
    const uint32_t count = min(kChunkElems, table.num_elems[tensor] - first);
#pragma unroll
    for (uint32_t turn = 0; turn < kChunkElems / (kTensorThreads * kWidth); turn++) {
        const uint32_t at = (turn * kTensorThreads + threadIdx.x) * kWidth;
        if (at + kWidth <= count) {
            body(Width<kWidth>(), first + at);
        } else {
            for (uint32_t i = at; i < count; i++) body(Width<1>(), first + i);
        }
    }
}
