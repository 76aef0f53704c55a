// The cells of adaptive average pooling: along an axis of `in` pixels cut into `out` cells, cell i holds the pixels from
// floor(i * in / out) to before ceil((i + 1) * in / out). Neighbours share a pixel where `out` does not divide `in`.
#pragma once

#include "common.cuh"

struct AdaptiveAvgPoolArgs {
    const void* from;
    void* to;
    uint64_t num_elems;
    uint32_t height, width, out_height, out_width, channels, reserved;
};

struct Cells {
    uint32_t first, end;
};

// The pixels of cell `i`.
static __device__ __forceinline__ Cells pixels_of(uint32_t i, uint32_t in, uint32_t out) {
    return Cells{i * in / out, ceil_div((i + 1) * in, out)};
}

// The cells that hold pixel `i`.
static __device__ __forceinline__ Cells cells_over(uint32_t i, uint32_t in, uint32_t out) {
    return Cells{i * out / in, ceil_div((i + 1) * out, in)};
}
