// The 7x7 filter of the stem and the 4x4 filter over blocks of 2x2 pixels.
#pragma once

#include "common.cuh"

struct StemFilterArgs {
    const void* from;
    void* to;
    uint64_t num_elems;
    uint32_t channels, depth;
};

// Extent of the filter in pixels.
FOR_RUST constexpr uint32_t kPixelTaps = 7;
// Extent of the filter in blocks.
FOR_RUST constexpr uint32_t kBlockTaps = 4;
