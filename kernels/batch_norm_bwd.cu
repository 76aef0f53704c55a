// batch_norm_bwd: the gradient of x, and that of a residual, once gamma and beta have theirs
// Math      dz[m,c] = y[m,c] <= 0 ? 0 : dy[m,c] where y, beta or bits are given, dy[m,c] otherwise; with beta, y is computed
//           from x once more, to the bit of batch_norm_fwd.cu, which leaves bits as in relu_mask.cuh
//           dx[m,c] = gamma[c]*rstd[c] * (dz[m,c] - dbeta[c]/M - (x[m,c] - mean[c])*rstd[c] * dgamma[c]/M)
// Layout    dy, x, y (null: no ReLU, or another mask), bits u8 [M][C / 8], dx, dz (null: not wanted): M rows of C channels; the rest f32 [C]; dx may lie
//           over x, dz over dy
// Mapping   block -> block_rows rows of a channel tile (channels.cuh); a thread keeps mean, scale, slope and shift of
//           its channels in registers
// Cost      6 flop per element of x; DRAM floor = bytes(dy) + bytes(x) + bytes(y) + bytes(bits) + bytes(dx) + bytes(dz)
// Numerics  f32, rounded once to the type of dx; a y that is not a number lets the gradient through
// Requires  dy, x, y, dx and dz aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles)
// Reference InputGradientTile in src/ops/batch_norm/bwd.rs
#include "batch_norm_dx.cuh"
#include "relu_mask.cuh"

struct BatchNormBwdArgs {
    const void* dy;
    const void* x;
    const void* y;
    const void* bits;
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* rstd;
    const float* dgamma;
    const float* dbeta;
    void* dx;
    void* dz;
    uint32_t rows, channels, block_rows, is_wide;
};

template <class T, bool kIsWide>
static __device__ void input_gradient(const BatchNormBwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    const InputGradient<kWidth> dx_of({a.gamma, a.mean, a.rstd, a.dgamma, a.dbeta}, tile.channel, a.rows);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    with_mask<T, kWidth>(a, tile.channel, [&](const auto& mask) {
        const auto load = [&](uint64_t at) { return load_dy_and_x(a, mask, at); };
        for_each_row<4>(tile, first, end, a.channels, load, [&](uint64_t at, const auto& operands) {
            float x[kWidth], dz[kWidth], dx[kWidth];
            operands.x_and_dz(mask, x, dz);
#pragma unroll
            for (int i = 0; i < kWidth; i++) dx[i] = dx_of(i, dz[i], x[i]);
            store_vec(static_cast<T*>(a.dx) + at, rounded<T>(dx));
            if (a.dz) store_vec(static_cast<T*>(a.dz) + at, rounded<T>(dz));
        });
    });
}

template <class T>
static __device__ void batch_norm_bwd(const BatchNormBwdArgs& a) {
    if (a.is_wide) {
        input_gradient<T, true>(a);
    } else {
        input_gradient<T, false>(a);
    }
}

KERNEL(batch_norm_bwd_f32, BatchNormBwdArgs, 256) { batch_norm_bwd<float>(args); }
KERNEL(batch_norm_bwd_bf16, BatchNormBwdArgs, 256) { batch_norm_bwd<bf16>(args); }
