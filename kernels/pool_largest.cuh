// The largest value of a window, and where in the window it lies.
#pragma once

#include "pool.cuh"

// A window over an image, of which a thread takes kWidth channels.
template <class Window>
struct WindowOver {
    const PoolGeometry& geometry;
    const Window& window;
    PoolPlace place;
    uint32_t top, left;

    __device__ __forceinline__ WindowOver(const PoolGeometry& geometry, const Window& window, const PoolPlace& at)
        : geometry(geometry), window(window), place(at), top(at.row * window.stride_h), left(at.column * window.stride_w) {}

    // Padding stands for the nearest pixel of the image, which the window has, too: that changes neither the largest
    // value nor the tap that is named, and a load without a condition need not wait for it.
    __device__ __forceinline__ uint32_t padded_row(uint32_t r) const {
        return min(max(top + r, geometry.pad_h), geometry.pad_h + geometry.height - 1);
    }
    __device__ __forceinline__ uint32_t padded_column(uint32_t s) const {
        return min(max(left + s, geometry.pad_w), geometry.pad_w + geometry.width - 1);
    }
    __device__ __forceinline__ uint32_t tap(uint32_t r, uint32_t s) const {
        return (padded_row(r) - top) * window.kernel_w + padded_column(s) - left;
    }

    // Calls `each(tap, what the thread loads there)`, row by row.
    template <int kWidth, class T, class Each>
    __device__ __forceinline__ void for_each_tap(const T* x, const Each& each) const {
        const PoolGeometry& g = geometry;
        const T* image = x + uint64_t{place.image} * g.height * g.width * g.channels + place.channel;
#pragma unroll Window::kUnroll
        for (uint32_t r = 0; r < window.kernel_h; r++) {
#pragma unroll Window::kUnroll
            for (uint32_t s = 0; s < window.kernel_w; s++) {
                const uint32_t h = padded_row(r) - g.pad_h, w = padded_column(s) - g.pad_w;
                each(tap(r, s), load_packed<kWidth>(image + (uint64_t{h} * g.width + w) * g.channels));
            }
        }
    }
};

// y and argmax of one window and kWidth channels, of value(k, x) for the k-th channel's x, a number that T holds.
template <class T, int kWidth, class Window, class Value>
static __device__ __forceinline__ void largest_of_window(const WindowOver<Window>& over, const T* x, const Value& value_of,
                                                         Vec<T, kWidth>& y, Vec<uint8_t, kWidth>& argmax) {
    float largest[kWidth];
    uint32_t taps[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        largest[k] = -INFINITY;
        taps[k] = over.tap(0, 0);
    }
    over.template for_each_tap<kWidth>(x, [&](uint32_t tap, const Packed<T, kWidth>& packed) {
        const Vec<T, kWidth> values = packed.unpacked();
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            const float value = value_of(k, values[k]);
            const bool wins = value > largest[k] || value != value;
            largest[k] = wins ? value : largest[k];
            taps[k] = wins ? tap : taps[k];
        }
    });
    y = rounded<T>(largest).unpacked();
#pragma unroll
    for (int k = 0; k < kWidth; k++) argmax[k] = static_cast<uint8_t>(taps[k]);
}
