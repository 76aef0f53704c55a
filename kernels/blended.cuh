// How a running statistic follows that of a batch.
#pragma once

#include "common.cuh"

// (1 - share) * running + share * batch, in f64 and rounded once; with a share of 1 the batch's, whatever was there. The batch's
// comes rounded to f32, so that a rank may send it and another blend it in: the bits are these. What is multiplied and added at
// once is written, because what a compiler joins differs from place to place.
static __device__ __forceinline__ float blended(float running, float batch_share, float batch) {
    if (batch_share == 1.0f) return batch;
    const double share = batch_share;
    return static_cast<float>(fma(share, double{batch}, (1.0 - share) * double{running}));
}
