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

    // Adds to `sums` in order of p, then q.
    static __device__ __forceinline__ void gather(const PoolGeometry& g, const T* dy_at, const uint8_t* argmax_at,
                                                  const PoolPlace& at, float (&sums)[kPixels][kWidth]) {
        const uint32_t padded_h = at.row + g.pad_h, padded_w = at.column + g.pad_w;
        const Range rows = windows_over(padded_h, g.kernel_h, g.stride_h, g.out_height);
        const Range columns = windows_over(padded_w, g.kernel_w, g.stride_w, g.out_width);
        for (uint32_t p = rows.first; p < rows.end; p++) {
            for (uint32_t q = columns.first; q < columns.end; q++) {
                const uint32_t tap =
                    (padded_h - p * g.stride_h.divisor) * g.kernel_w + padded_w - q * g.stride_w.divisor;
                const uint64_t window = (uint64_t{at.image} * g.out_height + p) * g.out_width + q;
                const uint64_t from = window * g.channels + at.channel;
                const Vec<T, kWidth> dy = load_vec<kWidth>(dy_at + from);
                const Vec<uint8_t, kWidth> argmax = load_vec<kWidth>(argmax_at + from);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sums[0][k] += argmax[k] == tap ? float(dy[k]) : 0.0f;
            }
        }
    }

    // Whether the image has the i-th pixel of the unit, and where.
    static __device__ __forceinline__ bool has_pixel(const PoolGeometry& g, const PoolPlace& at, uint32_t, uint64_t& pixel) {
        pixel = (uint64_t{at.image} * g.height + at.row) * g.width + at.column;
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

    // Adds to `sums` in order of p, then q.
    static __device__ __forceinline__ void gather(const PoolGeometry& g, const T* dy_at, const uint8_t* argmax_at,
                                                  const PoolPlace& at, float (&sums)[kPixels][kWidth]) {
#pragma unroll
        for (uint32_t back_p = kStride; back_p-- > 0;) {
#pragma unroll
            for (uint32_t back_q = kStride; back_q-- > 0;) {
                // Before the first window these wrap around, beyond the last.
                const uint32_t p = at.row - back_p, q = at.column - back_q;
                const bool is_window = p < g.out_height && q < g.out_width;
                // Another window where there is none: loads without a condition are all under way together.
                const uint32_t row = at.image * g.out_height + min(p, g.out_height - 1);
                const uint64_t window = uint64_t{row} * g.out_width + min(q, g.out_width - 1);
                const uint64_t from = window * g.channels + at.channel;
                const Vec<T, kWidth> dy = load_vec<kWidth>(dy_at + from);
                const Vec<uint8_t, kWidth> argmax = load_vec<kWidth>(argmax_at + from);
#pragma unroll
                for (uint32_t r = back_p * kStride; r < min(kKernel, (back_p + 1) * kStride); r++) {
#pragma unroll
                    for (uint32_t s = back_q * kStride; s < min(kKernel, (back_q + 1) * kStride); s++) {
                        const uint32_t pixel = r % kStride * kStride + s % kStride;
#pragma unroll
                        for (int k = 0; k < kWidth; k++) {
                            const bool is_here = is_window && argmax[k] == r * kKernel + s;
                            sums[pixel][k] += is_here ? float(dy[k]) : 0.0f;
                        }
                    }
                }
            }
        }
    }

    static __device__ __forceinline__ bool has_pixel(const PoolGeometry& g, const PoolPlace& at, uint32_t i, uint64_t& pixel) {
        const uint32_t h = kStride * at.row + i / kStride - g.pad_h, w = kStride * at.column + i % kStride - g.pad_w;
        pixel = (uint64_t{at.image} * g.height + h) * g.width + w;
        return h < g.height && w < g.width;
    }
};
