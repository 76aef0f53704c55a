// max_pool_bwd: each pixel gathers the gradients of the windows whose maximum it was
// Math      dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) that cover (h,w) and whose argmax names it
// Layout    dx NHWC, dy and argmax (u8) NPQC
// Mapping   grid-stride loop over (n,h,w, vector of channels): 16 bytes of channels a thread, or one channel where C is
//           not a multiple of that
// Cost      2*kernel_h*kernel_w flop per element of dy; DRAM floor = bytes(dy) + bytes(argmax) + bytes(dx). A flop is a
//           comparison or an addition
// Numerics  a gather in order of p, then q: no atomics, the same bits every run; f32, rounded once to the type of dx
// Requires  dy, argmax and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); fewer than 2^32
//           elements; grid.x >= 1
// Reference MaxBwdTile in src/ops/max_pool.rs
#include "pool.cuh"

struct MaxPoolBwdArgs {
    const void* dy;
    const uint8_t* argmax;
    void* dx;
    uint64_t num_pixels;
    PoolGeometry geometry;
};

template <class T, int kWidth>
static __device__ void gather_gradients(const MaxPoolBwdArgs& a) {
    const PoolGeometry& g = a.geometry;
    const uint32_t vecs = g.channels / kWidth;
    const uint64_t num_vecs = a.num_pixels * vecs;
    for (uint64_t i = grid_thread(); i < num_vecs; i += grid_threads()) {
        const uint32_t pixel = static_cast<uint32_t>(i) / vecs;
        const uint32_t channel = (static_cast<uint32_t>(i) - pixel * vecs) * kWidth;
        const uint32_t nh = pixel / g.width, n = nh / g.height;
        const uint32_t padded_h = nh % g.height + g.pad_h, padded_w = pixel % g.width + g.pad_w;
        const Range rows = windows_over(padded_h, g.kernel_h, g.stride_h, g.out_height);
        const Range columns = windows_over(padded_w, g.kernel_w, g.stride_w, g.out_width);
        float sums[kWidth] = {};
        for (uint32_t p = rows.first; p < rows.end; p++) {
            for (uint32_t q = columns.first; q < columns.end; q++) {
                const uint32_t tap = (padded_h - p * g.stride_h) * g.kernel_w + padded_w - q * g.stride_w;
                const uint64_t window = (uint64_t{n} * g.out_height + p) * g.out_width + q;
                const uint64_t from = window * g.channels + channel;
                const Vec<T, kWidth> dy = load_vec<kWidth>(static_cast<const T*>(a.dy) + from);
                const Vec<uint8_t, kWidth> argmax = load_vec<kWidth>(a.argmax + from);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sums[k] += argmax[k] == tap ? float(dy[k]) : 0.0f;
            }
        }
        Vec<T, kWidth> dx;
#pragma unroll
        for (int k = 0; k < kWidth; k++) dx[k] = T(sums[k]);
        store_vec(static_cast<T*>(a.dx) + uint64_t{pixel} * g.channels + channel, dx);
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
