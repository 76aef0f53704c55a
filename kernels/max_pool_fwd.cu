// max_pool_fwd: the largest value of each window, and where in the window it lay
// Math      y[n,p,q,c] = max over taps (r,s) of x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c], padding left out;
//           argmax = r*kernel_w + s of the first largest. A NaN counts as larger than any number, the last NaN of a
//           window as the largest, as in PyTorch
// Layout    x NHWC, y and argmax (u8) NPQC
// Mapping   grid-stride loop over (n,p,q, vector of channels): 16 bytes of channels a thread, or one channel where C is
//           not a multiple of that
// Cost      kernel_h*kernel_w flop per element of y; DRAM floor = bytes(x) + bytes(y) + bytes(argmax). A flop is a
//           comparison; windows that overlap meet in the cache
// Numerics  exact
// Requires  x, y and argmax aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); fewer than 2^32
//           elements; windows of at most 256 taps, padding at most half of a window; grid.x >= 1
// Reference MaxTile in src/ops/max_pool.rs
#include "pool.cuh"

struct MaxPoolFwdArgs {
    const void* x;
    void* y;
    uint8_t* argmax;
    uint64_t num_windows;
    PoolGeometry geometry;
};

template <class T, int kWidth>
static __device__ void largest_of_windows(const MaxPoolFwdArgs& a) {
    const PoolGeometry& g = a.geometry;
    const uint32_t vecs = g.channels / kWidth;
    const uint64_t num_vecs = a.num_windows * vecs;
    for (uint64_t i = grid_thread(); i < num_vecs; i += grid_threads()) {
        const uint32_t window = static_cast<uint32_t>(i) / vecs;
        const uint32_t channel = (static_cast<uint32_t>(i) - window * vecs) * kWidth;
        const uint32_t q = window % g.out_width, np = window / g.out_width;
        const uint32_t p = np % g.out_height, n = np / g.out_height;
        const Range rows = taps_within(p * g.stride_h, g.pad_h, g.kernel_h, g.height);
        const Range columns = taps_within(q * g.stride_w, g.pad_w, g.kernel_w, g.width);
        Vec<T, kWidth> largest;
        Vec<uint8_t, kWidth> argmax;
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            largest[k] = T(-INFINITY);
            argmax[k] = static_cast<uint8_t>(rows.first * g.kernel_w + columns.first);
        }
        for (uint32_t r = rows.first; r < rows.end; r++) {
#pragma unroll 1  // unrolled by the compiler it spills on sm_90a
            for (uint32_t s = columns.first; s < columns.end; s++) {
                const uint32_t h = p * g.stride_h + r - g.pad_h, w = q * g.stride_w + s - g.pad_w;
                const uint64_t pixel = (uint64_t{n} * g.height + h) * g.width + w;
                const T* from = static_cast<const T*>(a.x) + pixel * g.channels + channel;
                const Vec<T, kWidth> x = load_vec<kWidth>(from);
#pragma unroll
                for (int k = 0; k < kWidth; k++) {
                    const float value = float(x[k]);
                    if (value > float(largest[k]) || value != value) {
                        largest[k] = x[k];
                        argmax[k] = static_cast<uint8_t>(r * g.kernel_w + s);
                    }
                }
            }
        }
        const uint64_t to = uint64_t{window} * g.channels + channel;
        store_vec(static_cast<T*>(a.y) + to, largest);
        store_vec(a.argmax + to, argmax);
    }
}

template <class T>
static __device__ void max_pool_fwd(const MaxPoolFwdArgs& a) {
    if (a.geometry.is_wide) {
        largest_of_windows<T, kVecElems<T>>(a);
    } else {
        largest_of_windows<T, 1>(a);
    }
}

KERNEL(max_pool_fwd_f32, MaxPoolFwdArgs, 256) { max_pool_fwd<float>(args); }
KERNEL(max_pool_fwd_bf16, MaxPoolFwdArgs, 256) { max_pool_fwd<bf16>(args); }
