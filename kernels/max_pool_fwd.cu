// max_pool_fwd: the largest value of each window, and where in the window it lay
// Math      y[n,p,q,c] = max over taps (r,s) of x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c], padding left out;
//           argmax = r*kernel_w + s of the first largest. A NaN counts as larger than any number, the last NaN of a
//           window as the largest, as in PyTorch
// Layout    x NHWC, y and argmax (u8) NPQC
// Mapping   thread -> a window and 16 bytes of its channels, or one channel where C is not a multiple of that. The 3x3 kernels are for windows of 3x3 pixels two apart, those of ResNets
// Cost      kernel_h*kernel_w flop per element of y; DRAM floor = bytes(x) + bytes(y) + bytes(argmax). A flop is a
//           comparison; windows that overlap meet in the cache
// Numerics  exact
// Requires  x, y and argmax aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it
//           must be for the 3x3 kernels; fewer than 2^32 elements and 2^31 vectors; windows of at most 256 taps, padding
//           at most half of a window; a thread for each vector
// Reference MaxTile in src/ops/max_pool.rs
#include "pool_largest.cuh"

struct MaxPoolFwdArgs {
    const void* x;
    void* y;
    uint8_t* argmax;
    uint32_t num_vecs;  // of y and argmax
    PoolGeometry geometry;
    PoolUnits units;
};

template <class T, int kWidth, class Window>
static __device__ __forceinline__ void largest_of_windows(const MaxPoolFwdArgs& a, const Window& window) {
    const uint64_t i = grid_thread();
    if (i >= a.num_vecs) return;
    const PoolPlace at = place_of_vec<kWidth>(static_cast<uint32_t>(i), a.units);
    Vec<T, kWidth> y;
    Vec<uint8_t, kWidth> argmax;
    const WindowOver<Window> over(a.geometry, window, at);
    largest_of_window(over, static_cast<const T*>(a.x), [](int, T x) { return float(x); }, y, argmax);
    store_vec(static_cast<T*>(a.y) + i * kWidth, y);
    store_vec(a.argmax + i * kWidth, argmax);
}

template <class T>
static __device__ void max_pool_fwd(const MaxPoolFwdArgs& a) {
    if (a.geometry.is_wide) {
        largest_of_windows<T, kVecElems<T>>(a, AnyWindow(a.geometry));
    } else {
        largest_of_windows<T, 1>(a, AnyWindow(a.geometry));
    }
}

KERNEL(max_pool_fwd_f32, MaxPoolFwdArgs, 256) { max_pool_fwd<float>(args); }
KERNEL(max_pool_fwd_bf16, MaxPoolFwdArgs, 256) { max_pool_fwd<bf16>(args); }
KERNEL(max_pool_fwd_3x3_f32, MaxPoolFwdArgs, 256) { largest_of_windows<float, kVecElems<float>>(args, Window3x3()); }
KERNEL(max_pool_fwd_3x3_bf16, MaxPoolFwdArgs, 256) { largest_of_windows<bf16, kVecElems<bf16>>(args, Window3x3()); }
