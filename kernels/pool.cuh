// What both passes of max pooling share: the geometry, which taps of a window lie within an image, and which windows
// cover a pixel.
#pragma once

#include "divisor.cuh"
#include "elementwise.cuh"

// Image (H, W, C), result (P, Q) and window.
struct PoolGeometry {
    uint32_t channels, height, width, out_height, out_width;
    uint32_t kernel_h, kernel_w, pad_h, pad_w;
    Divisor stride_h, stride_w;
    uint32_t is_wide;  // a thread takes 16 bytes of channels, not one channel
};

// What a kernel gives a thread of: images of so many rows and columns of pixels, windows or blocks of pixels.
struct PoolUnits {
    Divisor rows, columns;
    Divisor vecs;  // vectors of channels that a thread takes, of each
};

// A window as the arguments say.
struct AnyWindow {
    static constexpr int kUnroll = 1;
    uint32_t kernel_h, kernel_w, stride_h, stride_w;

    __device__ __forceinline__ explicit AnyWindow(const PoolGeometry& g)
        : kernel_h(g.kernel_h), kernel_w(g.kernel_w), stride_h(g.stride_h.divisor), stride_w(g.stride_w.divisor) {}
};

// The window of ResNets, known to the compiler: it unrolls the loops over taps, and their loads are under way together.
struct Window3x3 {
    static constexpr int kUnroll = 3;
    static constexpr uint32_t kernel_h = 3, kernel_w = 3, stride_h = 2, stride_w = 2;
};

// Where a unit is, and the first of the channels that a thread takes of it.
struct PoolPlace {
    uint32_t image, row, column, channel;
};

static __device__ __forceinline__ PoolPlace place_of(uint32_t unit, uint32_t channel, const PoolUnits& units) {
    const uint32_t image_row = quotient(unit, units.columns), image = quotient(image_row, units.rows);
    return {image, image_row - image * units.rows.divisor, unit - image_row * units.columns.divisor, channel};
}

// The place of the i-th vector of kWidth channels.
template <int kWidth>
static __device__ __forceinline__ PoolPlace place_of_vec(uint32_t i, const PoolUnits& units) {
    const uint32_t unit = quotient(i, units.vecs);
    return place_of(unit, (i - unit * units.vecs.divisor) * kWidth, units);
}
