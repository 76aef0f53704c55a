// batch_norm_pool_bwd_sums: the gradients of gamma and beta of a batch norm that a ReLU and a max pooling follow
// Math      dp[m,c] = sum of dy over the windows that cover pixel m and whose argmax names it, rounded to the type of dy;
//           dz[m,c] = y[m,c] <= 0 ? 0 : dp[m,c], y computed from x once more, to the bit of batch_norm_fwd.cu
//           dbeta[c] = sum_m dz[m,c]; dgamma[c] = rstd[c] * sum_m dz[m,c] * (x[m,c] - mean[c])
// Layout    x NHWC, dy and argmax (u8) NPQC; partials f32 [block][sum dz, sum dz*(x-mean)][C], which
//           batch_norm_bwd_finalize adds up; the rest f32 [C]
// Mapping   block -> block_units units (pool_gradient.cuh) of a channel tile (channels.cuh). A unit is a pixel, in the 3x3
//           kernels, for windows of 3x3 pixels two apart, a block of 2x2 pixels
// Cost      5 flop per element of x, 2*kernel_h*kernel_w flop per element of dy; DRAM floor = bytes(dy) + bytes(argmax) +
//           bytes(x)
// Numerics  dz has the bits of max_pool_bwd.cu and relu_bwd.cu. A thread adds in f32, blocks are added in f64; the order
//           depends on the shape alone, no atomics
// Requires  dy, argmax and x aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it must be for the
//           3x3 kernels; fewer than 2^32 elements and 2^31 units; grid = (ceil(units / block_units), channel tiles)
// Reference BatchNormPoolBwd in src/ops/batch_norm/pool.rs
#include "pool_norm.cuh"

struct BatchNormPoolBwdPartialsArgs {
    const void* dy;
    const uint8_t* argmax;
    const void* x;
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* rstd;
    float* partials;
    uint32_t num_units, block_units;
    PoolGeometry geometry;
    PoolUnits units;
    uint32_t reserved;  // keeps the struct free of padding
};

template <class T, class Unit, bool kIsWide>
static __device__ __forceinline__ void partials(const BatchNormPoolBwdPartialsArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const uint32_t channels = a.geometry.channels;
    const Tile tile(channels);
    float sums[2][kWidth] = {};
    if (tile.is_inside) {
        const RecomputedMask<T, kWidth> mask(a.mean + tile.channel, a.rstd + tile.channel, a.gamma + tile.channel,
                                             a.beta + tile.channel);
        for_each_dz<T, Unit, Tile>(a, tile, mask, [&](uint64_t, const Vec<T, kWidth>& x, const Vec<T, kWidth>& dz) {
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                sums[0][k] += float(dz[k]);
                sums[1][k] += float(dz[k]) * (float(x[k]) - mask.norm.mean[k]);
            }
        });
    }
    float totals[2] = {};
    sum_rows<Tile>(sums, totals);
    const uint32_t channel = blockIdx.y * Tile::kChannels + threadIdx.x;
    if (threadIdx.x >= Tile::kChannels || channel >= channels) return;
    float* to = a.partials + uint64_t{2} * blockIdx.x * channels + channel;
    to[0] = totals[0];
    to[channels] = totals[1];
}

template <class T>
static __device__ void batch_norm_pool_bwd_partials(const BatchNormPoolBwdPartialsArgs& a) {
    if (a.geometry.is_wide) {
        partials<T, PixelUnit<T, kVecElems<T>>, true>(a);
    } else {
        partials<T, PixelUnit<T, 1>, false>(a);
    }
}

KERNEL(batch_norm_pool_bwd_partials_f32, BatchNormPoolBwdPartialsArgs, 256) { batch_norm_pool_bwd_partials<float>(args); }
KERNEL(batch_norm_pool_bwd_partials_bf16, BatchNormPoolBwdPartialsArgs, 256) { batch_norm_pool_bwd_partials<bf16>(args); }
KERNEL(batch_norm_pool_bwd_partials_3x3_f32, BatchNormPoolBwdPartialsArgs, 256) { partials<float, BlockUnit<float>, true>(args); }
KERNEL(batch_norm_pool_bwd_partials_3x3_bf16, BatchNormPoolBwdPartialsArgs, 256) { partials<bf16, BlockUnit<bf16>, true>(args); }
