// What both passes of softmax cross-entropy share.
#pragma once

#include "common.cuh"

// A row with this label is padding: no loss, no gradient, no hit, not counted.
FOR_RUST constexpr int32_t kPaddingLabel = -1;

// Rows of a block: a warp each.
FOR_RUST constexpr uint32_t kRowsPerBlock = 8;
static_assert(kRowsPerBlock * kWarpThreads == 256, "the kernels' blocks have 256 threads");

static __device__ __forceinline__ bool is_class_of(int32_t label, uint32_t classes) {
    return label >= 0 && static_cast<uint32_t>(label) < classes;
}
