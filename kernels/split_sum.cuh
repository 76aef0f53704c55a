// The sum over the parts of a reduction that was split over blocks.
#pragma once

#include "elementwise.cuh"
#include "totals.cuh"

struct SplitSumArgs {
    const void* parts;   // [num_splits][num_elems] f32
    const void* addend;  // [addend_elems] f32, repeated along num_elems
    void* out;           // [num_elems] f32
    uint64_t num_elems;
    uint64_t num_splits;
    uint64_t addend_elems;
    uint32_t columns;
    uint32_t is_wide;  // num_elems is a multiple of four
};

// out = the sum of the parts as in totals.cuh, then the addend, if there is one. A column is four neighbouring elements, or
// one.
template <int kWidth, bool kHasAddend>
static __device__ __forceinline__ void split_sum_of(const SplitSumArgs& a) {
    const TotalTile tile(a.columns);
    const uint64_t first = tile.column * kWidth;
    const bool is_inside = first < a.num_elems;
    const float* parts = static_cast<const float*>(a.parts) + first;
    float sums[kWidth] = {};
    tile.for_each_addend(
        is_inside ? static_cast<uint32_t>(a.num_splits) : 0,
        [&](uint32_t split) { return load_vec<kWidth>(parts + split * a.num_elems); }, Vec<float, kWidth>{},
        [&](uint32_t, const Vec<float, kWidth>& part) {
#pragma unroll
            for (int i = 0; i < kWidth; i++) sums[i] += part[i];
        });
    tile.add_rows(sums);
    if (tile.row != 0 || !is_inside) return;
    if (kHasAddend) {
        const float* addend = static_cast<const float*>(a.addend);
#pragma unroll
        for (int i = 0; i < kWidth; i++) sums[i] += addend[(first + i) % a.addend_elems];
    }
    store_floats(static_cast<float*>(a.out) + first, sums);
}

template <bool kHasAddend>
static __device__ __forceinline__ void split_sum(const SplitSumArgs& a) {
    if (a.is_wide) {
        split_sum_of<kVecElems<float>, kHasAddend>(a);
    } else {
        split_sum_of<1, kHasAddend>(a);
    }
}
