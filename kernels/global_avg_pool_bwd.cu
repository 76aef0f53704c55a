// global_avg_pool_bwd: every pixel gets its share of the gradient of the mean
// Math      dx[n,p,c] = dy[n,c] / P, p over the P = H*W pixels
// Layout    dy NC, f32; dx NHWC
// Mapping   blockIdx.x -> image, blockIdx.y -> tile of channels (channels.cuh); a thread keeps its channels' shares in
//           registers
// Cost      1 flop per element of dy; DRAM floor = bytes(dy) + bytes(dx)
// Numerics  dy times 1/P in f32, rounded once to the type of dx
// Requires  dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid = (images, channel tiles)
// Reference GlobalAvgPoolBwd in src/ops/avg_pool.rs
#include "channels.cuh"

struct GlobalAvgPoolBwdArgs {
    const float* dy;
    void* dx;
    uint64_t pixels;
    uint32_t channels, is_wide;
};

template <class T, bool kIsWide>
static __device__ void spread(const GlobalAvgPoolBwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    float dy[kWidth];
    load_floats(dy, a.dy + uint64_t{blockIdx.x} * a.channels + tile.channel);
    const float share = 1.0f / static_cast<float>(a.pixels);
    Vec<T, kWidth> dx;
#pragma unroll
    for (int i = 0; i < kWidth; i++) dx[i] = T(dy[i] * share);
    T* image = static_cast<T*>(a.dx) + blockIdx.x * a.pixels * a.channels;
    for (uint64_t pixel = tile.row; pixel < a.pixels; pixel += Tile::kRows) {
        store_vec(image + pixel * a.channels + tile.channel, dx);
    }
}

template <class T>
static __device__ void global_avg_pool_bwd(const GlobalAvgPoolBwdArgs& a) {
    if (a.is_wide) {
        spread<T, true>(a);
    } else {
        spread<T, false>(a);
    }
}

KERNEL(global_avg_pool_bwd_f32, GlobalAvgPoolBwdArgs, 256) { global_avg_pool_bwd<float>(args); }
KERNEL(global_avg_pool_bwd_bf16, GlobalAvgPoolBwdArgs, 256) { global_avg_pool_bwd<bf16>(args); }
