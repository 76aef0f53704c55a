// batch_norm_pool_fwd: normalise, clip and take the largest value of each window, in one pass; the statistics are there already
// Math      z[m,c] = relu((x[m,c] - mean[c]) * rstd[c] * gamma[c] + beta[c]), rounded to the type of x, to the bit of
//           batch_norm_fwd.cu; y and argmax are those of max_pool_fwd.cu for z
// Layout    x NHWC, y and argmax (u8) NPQC; the rest f32 [C]
// Mapping   block -> block_units windows of a channel tile (channels.cuh); a thread keeps mean, scale and shift of its
//           channels in registers. The 3x3 kernels are for windows of 3x3 pixels two apart, those of ResNets
// Cost      4 flop per element of x, kernel_h*kernel_w flop per element of y; DRAM floor = bytes(x) + bytes(y) +
//           bytes(argmax). Windows that overlap meet in the cache, and each normalises its own pixels
// Numerics  the bits of the two passes apart; a NaN passes the ReLU and is the largest
// Requires  x, y and argmax aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it must be for the
//           3x3 kernels; fewer than 2^32 elements and 2^31 windows; windows of at most 256 taps, padding at most half of a
//           window; grid = (ceil(windows / block_units), channel tiles)
// Reference BatchNormPool in src/ops/batch_norm/pool.rs
#include "channels.cuh"
#include "pool_largest.cuh"

struct BatchNormPoolFwdArgs {
    const void* x;
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* rstd;
    void* y;
    uint8_t* argmax;
    uint32_t num_units, block_units;
    PoolGeometry geometry;
    PoolUnits units;
    uint32_t reserved;  // keeps the struct free of padding
};

template <class T, bool kIsWide, class Window>
static __device__ __forceinline__ void largest_of_windows(const BatchNormPoolFwdArgs& a, const Window& window) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const uint32_t channels = a.geometry.channels;
    const Tile tile(channels);
    if (!tile.is_inside) return;
    const SavedNorm<kWidth> norm(a.mean + tile.channel, a.rstd + tile.channel, a.gamma + tile.channel,
                                 a.beta + tile.channel);
    const auto value_of = [&](int k, T x) {
        const float y = norm(k, float(x));
        return float(T(y <= 0.0f ? 0.0f : y));
    };
    const uint32_t first = blockIdx.x * a.block_units;
    const uint32_t end = first + min(a.block_units, a.num_units - first);
    for (uint32_t unit = first + tile.row; unit < end; unit += Tile::kRows) {
        const PoolPlace at = place_of(unit, tile.channel, a.units);
        Vec<T, kWidth> y;
        Vec<uint8_t, kWidth> argmax;
        largest_of_window(a.geometry, window, static_cast<const T*>(a.x), at, value_of, y, argmax);
        const uint64_t to = uint64_t{unit} * channels + tile.channel;
        store_vec(static_cast<T*>(a.y) + to, y);
        store_vec(a.argmax + to, argmax);
    }
}

template <class T>
static __device__ void batch_norm_pool_fwd(const BatchNormPoolFwdArgs& a) {
    if (a.geometry.is_wide) {
        largest_of_windows<T, true>(a, AnyWindow(a.geometry));
    } else {
        largest_of_windows<T, false>(a, AnyWindow(a.geometry));
    }
}

KERNEL(batch_norm_pool_fwd_f32, BatchNormPoolFwdArgs, 256) { batch_norm_pool_fwd<float>(args); }
KERNEL(batch_norm_pool_fwd_bf16, BatchNormPoolFwdArgs, 256) { batch_norm_pool_fwd<bf16>(args); }
KERNEL(batch_norm_pool_fwd_3x3_f32, BatchNormPoolFwdArgs, 256) { largest_of_windows<float, true>(args, Window3x3()); }
KERNEL(batch_norm_pool_fwd_3x3_bf16, BatchNormPoolFwdArgs, 256) { largest_of_windows<bf16, true>(args, Window3x3()); }
