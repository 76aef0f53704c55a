// The sum over the parts of a reduction that was split over blocks.
#pragma once

#include "common.cuh"

struct SplitSumArgs {
    const void* parts;   // [num_splits][num_elems] f32
    const void* addend;  // [addend_elems] f32, repeated along num_elems; null for none
    void* out;           // [num_elems] f32
    uint64_t num_elems;
    uint64_t num_splits;
    uint64_t addend_elems;
};

// out = the sum of the parts, in their order, then the addend. Thread -> element.
static __device__ __forceinline__ void split_sum(const SplitSumArgs& a) {
    const uint64_t i = grid_thread();
    if (i >= a.num_elems) return;
    const float* part = static_cast<const float*>(a.parts) + i;
    float sum = part[0];
#pragma unroll 4
    for (uint64_t split = 1; split < a.num_splits; split++) sum += part[split * a.num_elems];
    if (a.addend != nullptr) sum += static_cast<const float*>(a.addend)[i % a.addend_elems];
    static_cast<float*>(a.out)[i] = sum;
}
