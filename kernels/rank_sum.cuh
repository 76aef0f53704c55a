// What sums of that which every rank sent have in common.
#pragma once

#include "elementwise.cuh"

// `received` is [num_ranks][num_elems].
struct RankSumArgs {
    const void* received;
    float* sum;
    uint64_t num_elems;
    uint32_t num_ranks, reserved;

    // Neighbouring numbers that `rank` sent.
    template <class T, int kWidth>
    __device__ __forceinline__ Vec<float, kWidth> terms(uint32_t rank, uint64_t at) const {
        float numbers[kWidth];
        load_packed<kWidth>(static_cast<const T*>(received) + rank * num_elems + at).floats(numbers);
        Vec<float, kWidth> terms;
#pragma unroll
        for (int i = 0; i < kWidth; i++) terms[i] = numbers[i];
        return terms;
    }
};

// sum += terms, element by element.
template <int kWidth>
static __device__ __forceinline__ void add_to(Vec<float, kWidth>& sum, const Vec<float, kWidth>& terms) {
#pragma unroll
    for (int i = 0; i < kWidth; i++) sum[i] += terms[i];
}
