// The gradient of max pooling, gathered: what reaches the pixels of a unit through the windows that cover them. A unit is a
// pixel, or for the window of ResNets a block of 2x2 pixels; a thread takes kWidth channels of it.
#pragma once

#include "pool.cuh"

// Positions along one axis, the end not among them.
struct Range {
    uint32_t first, end;
};

// The windows that cover padded position `position`.
static __device__ __forceinline__ Range windows_over(uint32_t position, uint32_t kernel, const Divisor& stride,
                                                     uint32_t count) {
    // Of `kernel` positions up to this one, the windows that begin there.
    const uint32_t past = position + 1 > kernel ? position + 1 - kernel : 0;
    return {quotient(past + stride.divisor - 1, stride), min(quotient(position, stride) + 1, count)};
}

// One pixel, under any window.
template <class T, int kChannels>
struct PixelUnit {
    static constexpr int kWidth = kChannels;
    static constexpr uint32_t kPixels = 1;

    const PoolGeometry& geometry;
    const T* dy;
    const uint8_t* argmax;
    PoolPlace at;

    __device__ __forceinline__ PixelUnit(const PoolGeometry& geometry, const T* dy, const uint8_t* argmax, const PoolPlace& at)
        : geometry(geometry), dy(dy), argmax(argmax), at(at) {}

    // What reaches the i-th pixel of the unit, added in order of p, then q.
    __device__ __forceinline__ void sum(uint32_t, float (&sums)[kWidth]) const {
        const PoolGeometry& g = geometry;
        const uint32_t padded_h = at.row + g.pad_h, padded_w = at.column + g.pad_w;
        const Range rows = windows_over(padded_h, g.kernel_h, g.stride_h, g.out_height);
        const Range columns = windows_over(padded_w, g.kernel_w, g.stride_w, g.out_width);
        for (uint32_t p = rows.first; p < rows.end; p++) {
            for (uint32_t q = columns.first; q < columns.end; q++) {
                const uint32_t tap =
                    (padded_h - p * g.stride_h.divisor) * g.kernel_w + padded_w - q * g.stride_w.divisor;
                const uint64_t window = (uint64_t{at.image} * g.out_height + p) * g.out_width + q;
                const uint64_t from = window * g.channels + at.channel;
                const Vec<T, kWidth> of_window = load_vec<kWidth>(dy + from);
                const Vec<uint8_t, kWidth> taps = load_vec<kWidth>(argmax + from);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sums[k] += taps[k] == tap ? float(of_window[k]) : 0.0f;
            }
        }
    }

    // Whether the image has the i-th pixel of the unit, and where; another pixel of the image where it has not.
    __device__ __forceinline__ bool has_pixel(uint32_t, uint64_t& pixel) const {
        pixel = (uint64_t{at.image} * geometry.height + at.row) * geometry.width + at.column;
        return true;
    }
};

// A block of 2x2 pixels, under windows of 3x3 pixels two apart. In padded positions, window p covers rows 2p, 2p+1 and 2p+2:
//
//   row of the block    covered by windows (tap)        so block b needs windows b-1 and b only, along either axis, and
//     2b                  b-1 (2)   b (0)               no window is read nine times
//     2b+1                          b (1)
template <class T>
struct BlockUnit {
    static constexpr int kWidth = kVecElems<T>;
    static constexpr uint32_t kKernel = Window3x3::kernel_h, kStride = Window3x3::stride_h;
    static constexpr uint32_t kPixels = kStride * kStride;

    const PoolGeometry& geometry;
    PoolPlace at;
    // Of the windows so many rows and columns before the block's own.
    Packed<T, kWidth> dy[kStride][kStride];
    Vec<uint32_t, kWidth / 4> argmax[kStride][kStride];  // four channels in a word

    __device__ __forceinline__ BlockUnit(const PoolGeometry& geometry, const T* dy_at, const uint8_t* argmax_at,
                                         const PoolPlace& at)
        : geometry(geometry), at(at) {
        const PoolGeometry& g = geometry;
#pragma unroll
        for (uint32_t back_p = 0; back_p < kStride; back_p++) {
#pragma unroll
            for (uint32_t back_q = 0; back_q < kStride; back_q++) {
                // Before the first window these wrap around, beyond the last.
                const uint32_t p = at.row - back_p, q = at.column - back_q;
                const bool is_window = p < g.out_height && q < g.out_width;
                // Another window where there is none: loads without a condition are all under way together. No pixel is the
                // largest of that.
                const uint32_t row = at.image * g.out_height + min(p, g.out_height - 1);
                const uint64_t window = uint64_t{row} * g.out_width + min(q, g.out_width - 1);
                const uint64_t from = window * g.channels + at.channel;
                dy[back_p][back_q] = load_packed<kWidth>(dy_at + from);
                Vec<uint32_t, kWidth / 4>& taps = argmax[back_p][back_q];
                taps = load_vec<kWidth / 4>(reinterpret_cast<const uint32_t*>(argmax_at + from));
#pragma unroll
                for (int j = 0; j < kWidth / 4; j++) taps[j] |= is_window ? 0 : ~0u;
            }
        }
    }

    // As PixelUnit::sum.
    __device__ __forceinline__ void sum(uint32_t i, float (&sums)[kWidth]) const {
#pragma unroll
        for (uint32_t back_p = kStride; back_p-- > 0;) {
#pragma unroll
            for (uint32_t back_q = kStride; back_q-- > 0;) {
                const uint32_t r = i / kStride + back_p * kStride, s = i % kStride + back_q * kStride;
                if (r >= kKernel || s >= kKernel) continue;
                float of_window[kWidth];
                dy[back_p][back_q].floats(of_window);
                const uint32_t tap = r * kKernel + s;
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    const int shift = k % 4 * 8;
                    const bool is_here = (argmax[back_p][back_q][k / 4] & 0xffu << shift) == tap << shift;
                    sums[k] += is_here ? of_window[k] : 0.0f;
                }
            }
        }
    }

    // As PixelUnit::has_pixel.
    __device__ __forceinline__ bool has_pixel(uint32_t i, uint64_t& pixel) const {
        const PoolGeometry& g = geometry;
        // Before the first row or column these wrap around, beyond the last.
        const uint32_t h = kStride * at.row + i / kStride - g.pad_h, w = kStride * at.column + i % kStride - g.pad_w;
        pixel = (uint64_t{at.image} * g.height + min(h, g.height - 1)) * g.width + min(w, g.width - 1);
        return h < g.height && w < g.width;
    }
};
