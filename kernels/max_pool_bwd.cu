// max_pool_bwd: each pixel gathers the gradients of the windows whose maximum it was
// Math      dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) that cover (h,w) and whose argmax names it
// Layout    dx NHWC, dy and argmax (u8) NPQC
// Mapping   grid-stride loop over (n,h,w, vector of channels): 16 bytes of channels a thread, or one channel where C is
//           not a multiple of that. The 3x3 kernels, for windows of 3x3 pixels two apart, those of ResNets: a thread for each
//           vector of each block of 2x2 pixels
// Cost      2*kernel_h*kernel_w flop per element of dy; DRAM floor = bytes(dy) + bytes(argmax) + bytes(dx). A flop is a
//           comparison or an addition
// Numerics  a gather in order of p, then q: no atomics, the same bits every run; f32, rounded once to the type of dx
// Requires  dy, argmax and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it
//           must be for the 3x3 kernels; fewer than 2^32
//           elements; grid.x >= 1
// Reference MaxBwdTile in src/ops/max_pool.rs
#include "pool.cuh"

struct MaxPoolBwdArgs {
    const void* dy;
    const uint8_t* argmax;
    void* dx;
    uint64_t num_vecs;  // of dx, in 3x3 kernels of blocks
    PoolGeometry geometry;
};

template <class T, int kWidth>
static __device__ __forceinline__ void gather_gradients(const MaxPoolBwdArgs& a) {
    const PoolGeometry& g = a.geometry;
    const uint32_t vecs = g.channels / kWidth;
    for (uint64_t i = grid_thread(); i < a.num_vecs; i += grid_threads()) {
        const PoolPlace at = place_of<kWidth>(static_cast<uint32_t>(i), g.height, g.width, vecs);
        const uint32_t padded_h = at.row + g.pad_h, padded_w = at.column + g.pad_w;
        const Range rows = windows_over(padded_h, g.kernel_h, g.stride_h, g.out_height);
        const Range columns = windows_over(padded_w, g.kernel_w, g.stride_w, g.out_width);
        float sums[kWidth] = {};
        for (uint32_t p = rows.first; p < rows.end; p++) {
            for (uint32_t q = columns.first; q < columns.end; q++) {
                const uint32_t tap = (padded_h - p * g.stride_h) * g.kernel_w + padded_w - q * g.stride_w;
                const uint64_t window = (uint64_t{at.image} * g.out_height + p) * g.out_width + q;
                const uint64_t from = window * g.channels + at.channel;
                const Vec<T, kWidth> dy = load_vec<kWidth>(static_cast<const T*>(a.dy) + from);
                const Vec<uint8_t, kWidth> argmax = load_vec<kWidth>(a.argmax + from);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sums[k] += argmax[k] == tap ? float(dy[k]) : 0.0f;
            }
        }
        Vec<T, kWidth> dx;
#pragma unroll
        for (int k = 0; k < kWidth; k++) dx[k] = T(sums[k]);
        store_vec(static_cast<T*>(a.dx) + i * kWidth, dx);
    }
}

// The same sums for a block of 2x2 pixels. In padded positions, window p covers rows 2p, 2p+1 and 2p+2:
//
//   row of the block    covered by windows (tap)        so block b needs windows b-1 and b only, along either axis, and
//     2b                  b-1 (2)   b (0)               no window is read nine times
//     2b+1                          b (1)
template <class T>
static __device__ __forceinline__ void gather_for_blocks(const MaxPoolBwdArgs& a) {
    constexpr int kWidth = kVecElems<T>;
    constexpr uint32_t kKernel = Window3x3::kernel_h, kStride = Window3x3::stride_h;
    const PoolGeometry& g = a.geometry;
    const uint32_t vecs = g.channels / kWidth;
    const uint32_t rows = ceil_div(g.height + g.pad_h, kStride), columns = ceil_div(g.width + g.pad_w, kStride);
    const uint64_t i = grid_thread();
    if (i >= a.num_vecs) return;
    const PoolPlace at = place_of<kWidth>(static_cast<uint32_t>(i), rows, columns, vecs);
    float sums[kStride][kStride][kWidth] = {};
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
            const Vec<T, kWidth> dy = load_vec<kWidth>(static_cast<const T*>(a.dy) + from);
            const Vec<uint8_t, kWidth> argmax = load_vec<kWidth>(a.argmax + from);
#pragma unroll
            for (uint32_t r = back_p * kStride; r < min(kKernel, (back_p + 1) * kStride); r++) {
#pragma unroll
                for (uint32_t s = back_q * kStride; s < min(kKernel, (back_q + 1) * kStride); s++) {
#pragma unroll
                    for (int k = 0; k < kWidth; k++) {
                        const bool is_here = is_window && argmax[k] == r * kKernel + s;
                        sums[r % kStride][s % kStride][k] += is_here ? float(dy[k]) : 0.0f;
                    }
                }
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < kStride; r++) {
#pragma unroll
        for (uint32_t s = 0; s < kStride; s++) {
            const uint32_t h = kStride * at.row + r - g.pad_h, w = kStride * at.column + s - g.pad_w;
            if (h >= g.height || w >= g.width) continue;
            Vec<T, kWidth> dx;
#pragma unroll
            for (int k = 0; k < kWidth; k++) dx[k] = T(sums[r][s][k]);
            const uint64_t pixel = (uint64_t{at.image} * g.height + h) * g.width + w;
            store_vec(static_cast<T*>(a.dx) + pixel * g.channels + at.channel, dx);
        }
    }
}

template <class T>
static __device__ void max_pool_bwd(const MaxPoolBwdArgs& a) {
    if (a.geometry.is_wide) {
        gather_gradients<T, kVecElems<T>>(a);
    } else {
        gather_gradients<T, 1>(a);
    }
}

KERNEL(max_pool_bwd_f32, MaxPoolBwdArgs, 256) { max_pool_bwd<float>(args); }
KERNEL(max_pool_bwd_bf16, MaxPoolBwdArgs, 256) { max_pool_bwd<bf16>(args); }
KERNEL(max_pool_bwd_3x3_f32, MaxPoolBwdArgs, 256) { gather_for_blocks<float>(args); }
KERNEL(max_pool_bwd_3x3_bf16, MaxPoolBwdArgs, 256) { gather_for_blocks<bf16>(args); }
