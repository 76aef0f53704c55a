// global_avg_pool_fwd: the mean of each channel over an image
// Math      y[n,c] = sum_p x[n,p,c] / P, p over the P = H*W pixels
// Layout    x NHWC; y NC, f32
// Mapping   blockIdx.x -> image, blockIdx.y -> tile of channels (channels.cuh)
// Cost      1 flop per element of x; DRAM floor = bytes(x)
// Numerics  sums in f32, the order depending on P alone: threads take every 32nd pixel (8th where pixels are not whole
//           vectors), then lanes, then warps; no atomics, the same bits every run
// Requires  x aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid = (images, channel tiles)
// Reference GlobalAvgPool in src/ops/avg_pool.rs
#include "channels.cuh"

struct GlobalAvgPoolFwdArgs {
    const void* x;
    float* y;
    uint64_t pixels;
    uint32_t channels, is_wide;
};

template <class T, bool kIsWide>
static __device__ void image_mean(const GlobalAvgPoolFwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    const T* image = static_cast<const T*>(a.x) + blockIdx.x * a.pixels * a.channels;
    float sums[1][kWidth] = {};
    if (tile.is_inside) {
        for (uint64_t pixel = tile.row; pixel < a.pixels; pixel += Tile::kRows) {
            const Vec<T, kWidth> v = load_vec<kWidth>(image + pixel * a.channels + tile.channel);
#pragma unroll
            for (int i = 0; i < kWidth; i++) sums[0][i] += float(v[i]);
        }
    }
    float total[1] = {};
    sum_rows<Tile>(sums, total);
    const uint32_t channel = blockIdx.y * Tile::kChannels + threadIdx.x;
    if (threadIdx.x >= Tile::kChannels || channel >= a.channels) return;
    a.y[uint64_t{blockIdx.x} * a.channels + channel] = total[0] / static_cast<float>(a.pixels);
}

template <class T>
static __device__ void global_avg_pool_fwd(const GlobalAvgPoolFwdArgs& a) {
    if (a.is_wide) {
        image_mean<T, true>(a);
    } else {
        image_mean<T, false>(a);
    }
}

KERNEL(global_avg_pool_fwd_f32, GlobalAvgPoolFwdArgs, 256) { global_avg_pool_fwd<float>(args); }
KERNEL(global_avg_pool_fwd_bf16, GlobalAvgPoolFwdArgs, 256) { global_avg_pool_fwd<bf16>(args); }
