// The largest value of a window, and where in the window it lies.
#pragma once

#include "pool.cuh"

// y and argmax of one window and kWidth channels, of value(k, x) for the k-th channel's x, a number that T holds.
template <class T, int kWidth, class Window, class Value>
static __device__ __forceinline__ void largest_of_window(const PoolGeometry& g, const Window& window, const T* x_at,
                                                         const PoolPlace& at, const Value& value_of, Vec<T, kWidth>& y,
                                                         Vec<uint8_t, kWidth>& argmax) {
    const uint32_t top = at.row * window.stride_h, left = at.column * window.stride_w;
    const T* image = x_at + uint64_t{at.image} * g.height * g.width * g.channels + at.channel;
    // Padding stands for the nearest pixel of the image, which the window has, too: that changes neither the largest
    // value nor the tap that is named, and a load without a condition need not wait for it.
    const auto padded_row = [&](uint32_t r) { return min(max(top + r, g.pad_h), g.pad_h + g.height - 1); };
    const auto padded_column = [&](uint32_t s) { return min(max(left + s, g.pad_w), g.pad_w + g.width - 1); };
    const auto tap = [&](uint32_t r, uint32_t s) {
        return (padded_row(r) - top) * window.kernel_w + padded_column(s) - left;
    };
    float largest[kWidth];
    uint32_t taps[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        largest[k] = -INFINITY;
        taps[k] = tap(0, 0);
    }
#pragma unroll Window::kUnroll
    for (uint32_t r = 0; r < window.kernel_h; r++) {
#pragma unroll Window::kUnroll
        for (uint32_t s = 0; s < window.kernel_w; s++) {
            const uint32_t h = padded_row(r) - g.pad_h, w = padded_column(s) - g.pad_w;
            const Vec<T, kWidth> x = load_vec<kWidth>(image + (uint64_t{h} * g.width + w) * g.channels);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                const float value = value_of(k, x[k]);
                const bool wins = value > largest[k] || value != value;
                largest[k] = wins ? value : largest[k];
                taps[k] = wins ? tap(r, s) : taps[k];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        y[k] = T(largest[k]);
        argmax[k] = static_cast<uint8_t>(taps[k]);
    }
}
