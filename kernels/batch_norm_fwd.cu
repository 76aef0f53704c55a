// batch_norm_fwd: normalise, add, clip, in one pass; the statistics are there already
// Math      y[m,c] = act((x[m,c] - mean[c]) * rstd[c] * gamma[c] + beta[c] [+ residual[m,c]]), act a ReLU or nothing;
//           rstd is save_rstd, or where that is null 1 / sqrt(running_var + eps): training and inference. batch_norm_join
//           adds shortcut_x instead, normalised by shortcut_mean, shortcut_rstd, shortcut_gamma and shortcut_beta
// Layout    x, residual (null: none), shortcut_x, y: M rows of C channels; bits u8 [M][C / 8]; the rest f32 [C]; y may lie over x
// Mapping   block -> block_rows rows of a channel tile (channels.cuh); a thread keeps mean, scale and shift of its
//           channels in registers
// Cost      4 flop per element of x, 3 flop per element of shortcut_x; DRAM floor = bytes(x) + bytes(residual) +
//           bytes(shortcut_x) + bytes(y) + bytes(bits)
// Numerics  f32, rounded once to the type of y; a NaN passes the ReLU, so that a diverged run shows
// Requires  x, residual, shortcut_x and y aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles)
// Reference Normalize in src/ops/batch_norm/mod.rs
#include "channels.cuh"

struct BatchNormFwdArgs {
    const void* x;
    const void* residual;
    void* y;
    void* bits;  // where y lets its gradient through, as in relu_mask.cuh; null where they are not wanted
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* save_rstd;
    const float* running_var;
    // Of batch_norm_join.
    const void* shortcut_x;
    const float* shortcut_gamma;
    const float* shortcut_beta;
    const float* shortcut_mean;
    const float* shortcut_rstd;
    uint32_t rows, channels, block_rows, is_wide, relu;
    float eps;
};

// What is added: a residual, or nothing where it is null.
template <int kWidth>
struct PlainResidual {
    const void* tensor;

    __device__ __forceinline__ PlainResidual(const BatchNormFwdArgs& a, uint32_t) : tensor(a.residual) {}
    __device__ __forceinline__ float operator()(int, float residual) const { return residual; }
};

// The result of a batch norm of its own.
template <int kWidth>
struct NormalizedResidual {
    const void* tensor;
    SavedNorm<kWidth> norm;

    __device__ __forceinline__ NormalizedResidual(const BatchNormFwdArgs& a, uint32_t channel)
        : tensor(a.shortcut_x),
          norm(a.shortcut_mean + channel, a.shortcut_rstd + channel, a.shortcut_gamma + channel,
               a.shortcut_beta + channel) {}
    __device__ __forceinline__ float operator()(int i, float residual) const { return norm(i, residual); }
};

template <class T, int kWidth>
struct Operands {
    Packed<T, kWidth> x, residual;
};

template <class T, bool kIsWide, template <int> class Residual, bool kBits, int kTogether>
static __device__ void normalize(const BatchNormFwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    float mean[kWidth], scale[kWidth], beta[kWidth], gamma[kWidth];
    load_floats(mean, a.mean + tile.channel);
    load_floats(beta, a.beta + tile.channel);
    load_floats(gamma, a.gamma + tile.channel);
    load_floats(scale, (a.save_rstd ? a.save_rstd : a.running_var) + tile.channel);
#pragma unroll
    for (int i = 0; i < kWidth; i++) {
        const float rstd = a.save_rstd ? scale[i] : 1.0f / sqrtf(scale[i] + a.eps);
        scale[i] = gamma[i] * rstd;
    }
    const Residual<kWidth> add(a, tile.channel);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    const auto load = [&](uint64_t at) {
        Operands<T, kWidth> operands = {load_packed<kWidth>(static_cast<const T*>(a.x) + at), {}};
        if (add.tensor) operands.residual = load_packed<kWidth>(static_cast<const T*>(add.tensor) + at);
        return operands;
    };
    for_each_row<kTogether>(tile, first, end, a.channels, load, [&](uint64_t at, const Operands<T, kWidth>& operands) {
        float x[kWidth], residual[kWidth], y[kWidth];
        operands.x.floats(x);
        operands.residual.floats(residual);
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            y[i] = normalized(x[i], mean[i], scale[i], beta[i]);
            if (add.tensor) y[i] += add(i, residual[i]);
            y[i] = a.relu && y[i] <= 0.0f ? 0.0f : y[i];
        }
        store_vec(static_cast<T*>(a.y) + at, rounded<T>(y));
        if constexpr (kBits && kWidth == 8) {
            if (a.bits) {
                uint32_t bits = 0;
#pragma unroll
                for (int i = 0; i < kWidth; i++) bits |= uint32_t{!(y[i] <= largest_zero<T>())} << i;
                static_cast<uint8_t*>(a.bits)[at / kWidth] = static_cast<uint8_t>(bits);
            }
        }
    });
}

// kTogether rows of a thread are under way together.
template <class T, template <int> class Residual, bool kBits = false, int kTogether = 4>
static __device__ void batch_norm_fwd(const BatchNormFwdArgs& a) {
    if (a.is_wide) {
        normalize<T, true, Residual, kBits, kTogether>(a);
    } else {
        normalize<T, false, Residual, kBits, kTogether>(a);
    }
}

KERNEL(batch_norm_fwd_f32, BatchNormFwdArgs, 256) { batch_norm_fwd<float, PlainResidual>(args); }
KERNEL(batch_norm_fwd_bf16, BatchNormFwdArgs, 256) { batch_norm_fwd<bf16, PlainResidual>(args); }
// Bits take a dozen registers, and one block of a multiprocessor with them. With four rows there would be too few for compute
// capability 12.0.
KERNEL(batch_norm_fwd_bits_bf16, BatchNormFwdArgs, 256) { batch_norm_fwd<bf16, PlainResidual, true, 2>(args); }
KERNEL(batch_norm_join_f32, BatchNormFwdArgs, 256) { batch_norm_fwd<float, NormalizedResidual>(args); }
KERNEL(batch_norm_join_bf16, BatchNormFwdArgs, 256) { batch_norm_fwd<bf16, NormalizedResidual, true>(args); }
