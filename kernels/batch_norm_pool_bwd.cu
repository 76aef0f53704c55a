// batch_norm_pool_bwd: the gradient of x of a batch norm that a ReLU and a max pooling follow, once gamma and beta have theirs
// Math      dp[m,c] = sum of dz over the windows that cover pixel m and whose argmax names it, rounded to the type of dz; M pixels
//           dx[m,c] = gamma[c]*rstd[c] * (dp[m,c] - dbeta[c]/M - (x[m,c] - mean[c])*rstd[c] * dgamma[c]/M)
// Layout    x and dx NHWC, dz (the gradient of what the pooling gave, behind the mask of the ReLU) and argmax (u8) NPQC; the rest
//           f32 [C]; dx may lie over x
// Mapping   block -> block_units units (pool_gradient.cuh) of a channel tile (channels.cuh). A unit is a pixel, in the 3x3
//           kernels, for windows of 3x3 pixels two apart, a block of 2x2 pixels; a thread keeps what its channels need in registers
// Cost      6 flop per element of x, 2*kernel_h*kernel_w flop per element of dz; DRAM floor = bytes(dz) + bytes(argmax) +
//           bytes(x) + bytes(dx)
// Numerics  f32, rounded once to the type of dx; dp, which is written nowhere, has the bits of max_pool_bwd.cu
// Requires  dz, argmax, x and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it must be for
//           the 3x3 kernels; fewer than 2^32 elements and 2^31 units; grid = (ceil(units / block_units), channel tiles)
// Reference BatchNormPoolDx in src/ops/batch_norm/pool.rs
#include "batch_norm_dx.cuh"
#include "pool_gradient.cuh"

struct BatchNormPoolBwdArgs {
    const void* dz;
    const uint8_t* argmax;
    const void* x;
    const float* gamma;
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
    static_assert(kWidth == Unit::kWidth, "a tile and a unit of the same channels");
    const PoolGeometry& g = a.geometry;
    const Tile tile(g.channels);
    if (!tile.is_inside) return;
    const InputGradient<kWidth> dx_of({a.gamma, a.mean, a.rstd, a.dgamma, a.dbeta}, tile.channel, a.rows);
    const uint32_t first = blockIdx.x * a.block_units;
    const uint32_t end = first + min(a.block_units, a.num_units - first);
    for (uint32_t unit = first + tile.row; unit < end; unit += Tile::kRows) {
        const Unit pixels(g, static_cast<const T*>(a.dz), a.argmax, place_of(unit, tile.channel, a.units));
        Packed<T, kWidth> loaded[Unit::kPixels];
        uint64_t places[Unit::kPixels];
        bool has_pixel[Unit::kPixels];
        // All that is read, at once.
#pragma unroll
        for (uint32_t i = 0; i < Unit::kPixels; i++) {
            uint64_t pixel;
            has_pixel[i] = pixels.has_pixel(i, pixel);
            places[i] = pixel * g.channels + tile.channel;
            loaded[i] = load_packed<kWidth>(static_cast<const T*>(a.x) + places[i]);
        }
#pragma unroll
        for (uint32_t i = 0; i < Unit::kPixels; i++) {
            if (!has_pixel[i]) continue;
            float sums[kWidth] = {};
            pixels.sum(i, sums);
            float x[kWidth], dp[kWidth], dx[kWidth];
            loaded[i].floats(x);
            rounded<T>(sums).floats(dp);
#pragma unroll
            for (int k = 0; k < kWidth; k++) dx[k] = dx_of(k, dp[k], x[k]);
            store_vec(static_cast<T*>(a.dx) + places[i], rounded<T>(dx));
        }
    }
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
