// batch_norm_pool_fwd: normalise, clip and take the largest value of each window, in one pass; the statistics are there already
// Math      s = gamma[c]*rstd[c]; argmax is the tap of the first of a window's pixels whose x is the largest, or the smallest
//           where s < 0, and largest that x; y = relu((largest - mean[c]) * s + beta[c]), rounded to the type of x. Batch norm and
//           ReLU keep the order of numbers, or turn it round, so y is the largest of what they give, to the bit
// Layout    x NHWC, y, argmax (u8) and largest NPQC; the rest f32 [C]
// Mapping   block -> block_units windows of a channel tile (channels.cuh); a thread keeps mean, scale and shift of its
//           channels in registers. The 3x3 kernels are for windows of 3x3 pixels two apart, those of ResNets
// Cost      kernel_h*kernel_w flop per element of y, 4 flop per element of largest; DRAM floor = bytes(x) + bytes(y) + bytes(argmax) + bytes(largest).
//           Windows that overlap meet in the cache
// Numerics  where normalising makes two numbers of a window one, the tap is that of the larger before. Where x has a NaN, so have the
//           statistics and with them y
// Requires  x, y, argmax and largest aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T), as it must be for the
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
    void* largest;
    uint32_t num_units, block_units;
    PoolGeometry geometry;
    PoolUnits units;
    uint32_t reserved;  // keeps the struct free of padding
};

// largest and argmax of one window for kWidth channels, of which those with a scale below 0 take the smallest.
template <class T, int kWidth, class Window>
static __device__ __forceinline__ void largest_by_scale(const WindowOver<Window>& over, const T* x,
                                                        const float (&scale)[kWidth], Vec<T, kWidth>& largest,
                                                        Vec<uint8_t, kWidth>& argmax) {
    // A product with 1 or -1 is exact, and eight factors are registers where eight conditions would be predicates.
    float sign[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; k++) sign[k] = scale[k] < 0.0f ? -1.0f : 1.0f;
    const auto turned = [&](int k, T x) { return float(x) * sign[k]; };
    largest_of_window(over, x, turned, largest, argmax);
    float turned_back[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; k++) turned_back[k] = turned(k, largest[k]);
    largest = rounded<T>(turned_back).unpacked();
}

// Two neighbouring bf16 as integers of 16 bits that are in the order of the numbers: of negative ones all but the sign is turned
// over. Twice gives the pair back.
static __device__ __forceinline__ uint32_t in_order(uint32_t pair) {
    const uint32_t negative = pair & 0x80008000u;
    return pair ^ (negative - (negative >> 15));
}

// The same for bf16 and 3x3 windows. Number and tap are one integer: the number above, and below it a rank that prefers the first
// tap, so a pixel costs a channel one maximum. It is half of the instructions.
static __device__ __forceinline__ void largest_by_scale(const WindowOver<Window3x3>& over, const bf16* x,
                                                        const float (&scale)[8], Vec<bf16, 8>& largest,
                                                        Vec<uint8_t, 8>& argmax) {
    constexpr int32_t kLastTap = Window3x3::kernel_h * Window3x3::kernel_w - 1;
    uint32_t turned[4];
    int32_t best[8];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        turned[j] = (scale[2 * j] < 0.0f ? 0x8000u : 0u) | (scale[2 * j + 1] < 0.0f ? 0x80000000u : 0u);
        best[2 * j] = best[2 * j + 1] = INT32_MIN;
    }
    over.for_each_tap<8>(x, [&](uint32_t tap, const Packed<bf16, 8>& packed) {
        const uint32_t rank = kLastTap - tap;
        uint32_t pairs[4];
        memcpy(pairs, &packed, sizeof pairs);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t pair = in_order(pairs[j] ^ turned[j]);
            best[2 * j] = max(best[2 * j], static_cast<int32_t>(pair * 0x10000u + rank));
            best[2 * j + 1] = max(best[2 * j + 1], static_cast<int32_t>((pair & 0xffff0000u) | rank));
        }
    });
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t low = static_cast<uint32_t>(best[2 * j]), high = static_cast<uint32_t>(best[2 * j + 1]);
        pairs[j] = in_order(low >> 16 | (high & 0xffff0000u)) ^ turned[j];
        argmax[2 * j] = static_cast<uint8_t>(kLastTap - (low & 0xffu));
        argmax[2 * j + 1] = static_cast<uint8_t>(kLastTap - (high & 0xffu));
    }
    memcpy(&largest, pairs, sizeof pairs);
}

template <class T, bool kIsWide, class Window>
static __device__ __forceinline__ void largest_of_windows(const BatchNormPoolFwdArgs& a, const Window& window) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const uint32_t channels = a.geometry.channels;
    const Tile tile(channels);
    if (!tile.is_inside) return;
    const SavedNorm<kWidth> norm(a.mean + tile.channel, a.rstd + tile.channel, a.gamma + tile.channel,
                                 a.beta + tile.channel);
    const uint32_t first = blockIdx.x * a.block_units;
    const uint32_t end = first + min(a.block_units, a.num_units - first);
    for (uint32_t unit = first + tile.row; unit < end; unit += Tile::kRows) {
        const WindowOver<Window> over(a.geometry, window, place_of(unit, tile.channel, a.units));
        Vec<T, kWidth> largest;
        Vec<uint8_t, kWidth> argmax;
        float y[kWidth];
        largest_by_scale(over, static_cast<const T*>(a.x), norm.scale, largest, argmax);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            y[k] = norm(k, float(largest[k]));
            y[k] = y[k] <= 0.0f ? 0.0f : y[k];
        }
        const uint64_t to = uint64_t{unit} * channels + tile.channel;
        store_vec(static_cast<T*>(a.largest) + to, largest);
        store_vec(static_cast<T*>(a.y) + to, rounded<T>(y));
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
