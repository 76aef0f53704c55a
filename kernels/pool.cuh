// What both passes of max pooling share: the geometry, which taps of a window lie within an image, and which windows
// cover a pixel.
#pragma once

#include "elementwise.cuh"

// Image (H, W, C), result (P, Q) and window.
struct PoolGeometry {
    uint32_t channels, height, width, out_height, out_width;
    uint32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
    uint32_t is_wide;  // a thread takes 16 bytes of channels, not one channel
};

// A window as the arguments say.
struct AnyWindow {
    static constexpr int kUnroll = 1;
    uint32_t kernel_h, kernel_w, stride_h, stride_w;

    __device__ __forceinline__ explicit AnyWindow(const PoolGeometry& g)
        : kernel_h(g.kernel_h), kernel_w(g.kernel_w), stride_h(g.stride_h), stride_w(g.stride_w) {}
};

// The window of ResNets, known to the compiler: it unrolls the loops over taps, and their loads are under way together.
struct Window3x3 {
    static constexpr int kUnroll = 3;
    static constexpr uint32_t kernel_h = 3, kernel_w = 3, stride_h = 2, stride_w = 2;
};

// Where an element of a matrix of images is, of which a thread takes kWidth channels.
struct PoolPlace {
    uint32_t image, row, column, channel;
};

// The place of the i-th vector of images of rows x columns x (vecs vectors of channels).
template <int kWidth>
static __device__ __forceinline__ PoolPlace place_of(uint32_t i, uint32_t rows, uint32_t columns, uint32_t vecs) {
    const uint32_t pixel = i / vecs, image_row = pixel / columns, image = image_row / rows;
    return {image, image_row - image * rows, pixel - image_row * columns, (i - pixel * vecs) * kWidth};
}

// Positions along one axis, the end not among them.
struct Range {
    uint32_t first, end;
};

// The windows that cover padded position `position`.
static __device__ __forceinline__ Range windows_over(uint32_t position, uint32_t kernel, uint32_t stride, uint32_t count) {
    const uint32_t past = position + 1 > kernel ? position + 1 - kernel : 0;
    return {ceil_div(past, stride), min(position / stride + 1, count)};
}
