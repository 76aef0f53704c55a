// What every wgrad kernel is given.
#pragma once

#include "conv2d_taps.cuh"

// x NHWC, dy NPQK, dw KRSC in f32. With more than one split, dw is a workspace of one dw after the other.
struct Conv2dWgradArgs {
    const void* x;
    const void* dy;
    void* dw;
    int32_t n, h, w, c;
    int32_t k, r, s;
    int32_t p, q;
    int32_t stride_h, stride_w;
    int32_t pad_h, pad_w;
    int32_t pixels_per_split;  // of the n * p * q positions of dy, for each blockIdx.y
};
