// What both passes of max pooling share: the geometry, which taps of a window lie within an image, and which windows
// cover a pixel.
#pragma once

#include "elementwise.cuh"

// Image (H, W, C), result (P, Q) and window.
struct PoolGeometry {
    uint32_t channels, height, width, out_height, out_width;
    uint32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
    uint32_t is_wide;
};

// Positions along one axis, the end not among them.
struct Range {
    uint32_t first, end;
};

// The taps within an image of `extent` pixels of the window that starts at padded position `start`.
static __device__ __forceinline__ Range taps_within(uint32_t start, uint32_t pad, uint32_t kernel, uint32_t extent) {
    return {pad > start ? pad - start : 0, min(kernel, extent + pad - start)};
}

// The windows that cover padded position `position`.
static __device__ __forceinline__ Range windows_over(uint32_t position, uint32_t kernel, uint32_t stride, uint32_t count) {
    const uint32_t past = position + 1 > kernel ? position + 1 - kernel : 0;
    return {ceil_div(past, stride), min(position / stride + 1, count)};
}
