// max_pool_bwd: each pixel gathers the gradients of the windows whose maximum it was
// Math      dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) that cover (h,w) and whose argmax names it
// Layout    dx NHWC, dy and argmax (u8) NPQC
// Mapping   thread -> a unit (pool_gradient.cuh) and 16 bytes of its channels, or one channel where C is
//           not a multiple of that. A unit is a pixel, in the 3x3 kernels, for windows of 3x3 pixels two apart, those of
//           ResNets, a block of 2x2 pixels
// Cost      2*kernel_h*kernel_w flop per element of dy; DRAM floor = bytes(dy) + bytes(argmax) + bytes(dx). A flop is a
//           comparison or an addition
// Numerics  a gather in order of p, then q: no atomics, the same bits every run; f32, rounded once to the type of dx
// Requires  dy, argmax and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it
//           must be for the 3x3 kernels; fewer than 2^32 elements and 2^31 vectors; a thread for each of them
// Reference MaxBwdTile in src/ops/max_pool.rs
#include "pool_gradient.cuh"

struct MaxPoolBwdArgs {
    const void* dy;
    const uint8_t* argmax;
    void* dx;
    uint32_t num_vecs;  // of all units
    PoolGeometry geometry;
    PoolUnits units;
};

template <class T, class Unit>
static __device__ __forceinline__ void gather_gradients(const MaxPoolBwdArgs& a) {
    constexpr int kWidth = Unit::kWidth;
    const PoolGeometry& g = a.geometry;
    const uint64_t i = grid_thread();
    if (i >= a.num_vecs) return;
    const PoolPlace at = place_of_vec<kWidth>(static_cast<uint32_t>(i), a.units);
    const Unit pixels(g, static_cast<const T*>(a.dy), a.argmax, at);
#pragma unroll
    for (uint32_t j = 0; j < Unit::kPixels; j++) {
        uint64_t pixel;
        if (!pixels.has_pixel(j, pixel)) continue;
        float sums[kWidth] = {};
        pixels.sum(j, sums);
        store_vec(static_cast<T*>(a.dx) + pixel * g.channels + at.channel, rounded<T>(sums));
    }
}

template <class T>
static __device__ void max_pool_bwd(const MaxPoolBwdArgs& a) {
    if (a.geometry.is_wide) {
        gather_gradients<T, PixelUnit<T, kVecElems<T>>>(a);
    } else {
        gather_gradients<T, PixelUnit<T, 1>>(a);
    }
}

KERNEL(max_pool_bwd_f32, MaxPoolBwdArgs, 256) { max_pool_bwd<float>(args); }
KERNEL(max_pool_bwd_bf16, MaxPoolBwdArgs, 256) { max_pool_bwd<bf16>(args); }
KERNEL(max_pool_bwd_3x3_f32, MaxPoolBwdArgs, 256) { gather_gradients<float, BlockUnit<float>>(args); }
KERNEL(max_pool_bwd_3x3_bf16, MaxPoolBwdArgs, 256) { gather_gradients<bf16, BlockUnit<bf16>>(args); }
