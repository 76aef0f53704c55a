// batch_norm_join_bwd: the gradients of what two batch norms normalised whose results were added, at the end of a residual block
// Math      as batch_norm_bwd.cu without a mask, for both: dz is the gradient of their sum
// Layout    dz, x, shortcut_x, dx, shortcut_dx: M rows of C channels; the rest f32 [C]; dx may lie over x, shortcut_dx over
//           shortcut_x
// Mapping   that of batch_norm_bwd.cu
// Cost      12 flop per element of x; DRAM floor = bytes(dz) + bytes(x) + bytes(shortcut_x) + bytes(dx) + bytes(shortcut_dx)
// Numerics  those of batch_norm_bwd.cu, to the bit
// Requires  operands of M rows aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles)
// Reference BatchNormJoinDx::cpu in src/ops/batch_norm
#include "batch_norm_dx.cuh"

struct BatchNormJoinBwdArgs {
    const void* dz;
    const void* x;
    const float* gamma;
    const float* mean;
    const float* rstd;
    const float* dgamma;
    const float* dbeta;
    void* dx;
    const void* shortcut_x;
    const float* shortcut_gamma;
    const float* shortcut_mean;
    const float* shortcut_rstd;
    const float* shortcut_dgamma;
    const float* shortcut_dbeta;
    void* shortcut_dx;
    uint32_t rows, channels, block_rows, is_wide;
};

template <class T, int kWidth>
struct JoinOperands {
    Packed<T, kWidth> dz, x, shortcut_x;
};

template <class T, bool kIsWide>
static __device__ void input_gradients(const BatchNormJoinBwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    const InputGradient<kWidth> dx_of({a.gamma, a.mean, a.rstd, a.dgamma, a.dbeta}, tile.channel, a.rows);
    const InputGradient<kWidth> shortcut_dx_of(
        {a.shortcut_gamma, a.shortcut_mean, a.shortcut_rstd, a.shortcut_dgamma, a.shortcut_dbeta}, tile.channel, a.rows);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    const auto load = [&](uint64_t at) {
        const auto of = [&](const void* tensor) { return load_packed<kWidth>(static_cast<const T*>(tensor) + at); };
        return JoinOperands<T, kWidth>{of(a.dz), of(a.x), of(a.shortcut_x)};
    };
    for_each_row<2>(tile, first, end, a.channels, load, [&](uint64_t at, const auto& operands) {
        float dz[kWidth], x[kWidth], shortcut_x[kWidth], dx[kWidth], shortcut_dx[kWidth];
        operands.dz.floats(dz);
        operands.x.floats(x);
        operands.shortcut_x.floats(shortcut_x);
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            dx[i] = dx_of(i, dz[i], x[i]);
            shortcut_dx[i] = shortcut_dx_of(i, dz[i], shortcut_x[i]);
        }
        store_vec(static_cast<T*>(a.dx) + at, rounded<T>(dx));
        store_vec(static_cast<T*>(a.shortcut_dx) + at, rounded<T>(shortcut_dx));
    });
}

template <class T>
static __device__ void batch_norm_join_bwd(const BatchNormJoinBwdArgs& a) {
    if (a.is_wide) {
        input_gradients<T, true>(a);
    } else {
        input_gradients<T, false>(a);
    }
}

KERNEL(batch_norm_join_bwd_f32, BatchNormJoinBwdArgs, 256) { batch_norm_join_bwd<float>(args); }
KERNEL(batch_norm_join_bwd_bf16, BatchNormJoinBwdArgs, 256) { batch_norm_join_bwd<bf16>(args); }
