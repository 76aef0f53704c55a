// add_bias_fwd: a number for each channel, added to every row
// Math      y[m,c] = x[m,c] + bias[c]
// Layout    x, y: M rows of C channels, y may lie over x; bias f32 [C]
// Mapping   block -> block_rows rows of a channel tile (channels.cuh); a thread keeps its channels' biases in registers
// Cost      1 flop per element of y; DRAM floor = bytes(x) + bytes(y)
// Numerics  one addition in f32, rounded once to the type of y
// Requires  x and y aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles)
// Reference AddBias in src/ops/bias.rs
#include "channels.cuh"

struct AddBiasFwdArgs {
    const void* x;
    const float* bias;
    void* y;
    uint32_t rows, channels, block_rows, is_wide;
};

template <class T, bool kIsWide>
static __device__ void add_to_rows(const AddBiasFwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    float bias[kWidth];
    load_floats(bias, a.bias + tile.channel);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    for (uint32_t row = first + tile.row; row < end; row += Tile::kRows) {
        const uint64_t at = uint64_t{row} * a.channels + tile.channel;
        Vec<T, kWidth> v = load_vec<kWidth>(static_cast<const T*>(a.x) + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) v[i] = T(float(v[i]) + bias[i]);
        store_vec(static_cast<T*>(a.y) + at, v);
    }
}

template <class T>
static __device__ void add_bias_fwd(const AddBiasFwdArgs& a) {
    if (a.is_wide) {
        add_to_rows<T, true>(a);
    } else {
        add_to_rows<T, false>(a);
    }
}

KERNEL(add_bias_fwd_f32, AddBiasFwdArgs, 256) { add_bias_fwd<float>(args); }
KERNEL(add_bias_fwd_bf16, AddBiasFwdArgs, 256) { add_bias_fwd<bf16>(args); }
