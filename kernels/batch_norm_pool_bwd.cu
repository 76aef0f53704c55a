// batch_norm_pool_bwd: the gradient of x of a batch norm that a ReLU and a max pooling follow, once gamma and beta have theirs
// Math      dz as in batch_norm_pool_bwd_sums.cu; M pixels
//           dx[m,c] = gamma[c]*rstd[c] * (dz[m,c] - dbeta[c]/M - (x[m,c] - mean[c])*rstd[c] * dgamma[c]/M)
// Layout    x and dx NHWC, dy and argmax (u8) NPQC; the rest f32 [C]; dx may lie over x
// Mapping   as in batch_norm_pool_bwd_sums.cu; a thread keeps mean, scale, slope and shift of its channels in registers
// Cost      6 flop per element of x, 2*kernel_h*kernel_w flop per element of dy; DRAM floor = bytes(dy) + bytes(argmax) +
//           bytes(x) + bytes(dx)
// Numerics  f32, rounded once to the type of dx; dz has the bits of max_pool_bwd.cu and relu_bwd.cu
// Requires  dy, argmax, x and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it must be for
//           the 3x3 kernels; fewer than 2^32 elements and 2^31 units; grid = (ceil(units / block_units), channel tiles)
// Reference BatchNormPoolBwd in src/ops/batch_norm/pool.rs
#include "pool_norm.cuh"

struct BatchNormPoolBwdArgs {
    const void* dy;
    const uint8_t* argmax;
    const void* x;
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* rstd;
    const float* dgamma;
    const float* dbeta;
    void* dx;
    uint32_t num_units, block_units;
    uint32_t rows;  // M
    PoolGeometry geometry;
    PoolUnits units;
};

template <class T, class Unit, bool kIsWide>
static __device__ __forceinline__ void input_gradient(const BatchNormPoolBwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.geometry.channels);
    if (!tile.is_inside) return;
    float slope[kWidth], mean_dz[kWidth];
    load_floats(slope, a.dgamma + tile.channel);
    load_floats(mean_dz, a.dbeta + tile.channel);
    {
        float rstd[kWidth];
        load_floats(rstd, a.rstd + tile.channel);
        const float per_row = 1.0f / static_cast<float>(a.rows);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            slope[k] *= rstd[k] * per_row;
            mean_dz[k] *= per_row;
        }
    }
    // Its scale is that of dx, too.
    const RecomputedMask<T, kWidth> mask(a.mean + tile.channel, a.rstd + tile.channel, a.gamma + tile.channel,
                                         a.beta + tile.channel);
    for_each_dz<T, Unit, Tile>(a, tile, mask, [&](uint64_t at, const Vec<T, kWidth>& x, const Vec<T, kWidth>& dz) {
        Vec<T, kWidth> dx;
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            dx[k] = T(mask.norm.scale[k] * (float(dz[k]) - mean_dz[k] - (float(x[k]) - mask.norm.mean[k]) * slope[k]));
        }
        store_vec(static_cast<T*>(a.dx) + at, dx);
    });
}

template <class T>
static __device__ void batch_norm_pool_bwd(const BatchNormPoolBwdArgs& a) {
    if (a.geometry.is_wide) {
        input_gradient<T, PixelUnit<T, kVecElems<T>>, true>(a);
    } else {
        input_gradient<T, PixelUnit<T, 1>, false>(a);
    }
}

KERNEL(batch_norm_pool_bwd_f32, BatchNormPoolBwdArgs, 256) { batch_norm_pool_bwd<float>(args); }
KERNEL(batch_norm_pool_bwd_bf16, BatchNormPoolBwdArgs, 256) { batch_norm_pool_bwd<bf16>(args); }
KERNEL(batch_norm_pool_bwd_3x3_f32, BatchNormPoolBwdArgs, 256) { input_gradient<float, BlockUnit<float>, true>(args); }
KERNEL(batch_norm_pool_bwd_3x3_bf16, BatchNormPoolBwdArgs, 256) { input_gradient<bf16, BlockUnit<bf16>, true>(args); }
