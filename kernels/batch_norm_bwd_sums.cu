// batch_norm_bwd_sums: the gradients of gamma and beta, in two kernels; dx needs them too
// Math      dz[m,c] = y[m,c] <= 0 ? 0 : dy[m,c] where y, beta or bits are given, dy[m,c] otherwise; with beta, y is computed
//           from x once more, to the bit of batch_norm_fwd.cu, which leaves bits as in relu_mask.cuh
//           dbeta[c] = sum_m dz[m,c]; dgamma[c] = rstd[c] * sum_m dz[m,c] * (x[m,c] - mean[c])
//           rstd is save_rstd, or where that is null 1 / sqrt(running_var + eps): training and inference
// Layout    dy, x, y (null: no ReLU, or another mask), bits u8 [M][C / 8], dz (null: not wanted; may lie over dy): M rows of C channels; partials
//           f32 [row block][sum dz, sum dz*(x-mean), of a shortcut's batch norm as well][C]; the rest f32 [C]
// Mapping   partials: block -> block_rows rows of a channel tile (channels.cuh)
//           finalize: the blocks' sums as in totals.cuh, a column a channel
// Cost      5 flop per element of x; DRAM floor = bytes(dy) + bytes(x) + bytes(y) + bytes(bits) + bytes(dz)
// Numerics  a thread adds in f32, at most block_rows / 32 rows; blocks are added in f64. The order depends on the shape
//           alone, no atomics: the same bits every run
// Requires  dy, x, y and dz aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles) for the first kernel, ceil(C / columns) for the second
// Reference sums in src/ops/batch_norm/bwd.rs
#include "relu_mask.cuh"
#include "totals.cuh"

struct BatchNormBwdPartialsArgs {
    const void* dy;
    const void* x;
    const void* y;
    const void* bits;
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* rstd;
    void* dz;
    float* partials;
    uint32_t rows, channels, block_rows, is_wide;
};

struct BatchNormBwdFinalizeArgs {
    const float* partials;
    const float* save_rstd;
    const float* running_var;
    float* dgamma;
    float* dbeta;
    // Of a second batch norm, whose sum of dz * (x - mean) follows the two; null for none.
    const float* shortcut_rstd;
    float* shortcut_dgamma;
    float* shortcut_dbeta;
    uint32_t num_blocks, channels, columns;
    float eps;
};

template <class T, bool kIsWide>
static __device__ void partials(const BatchNormBwdPartialsArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    float sums[2][kWidth] = {};
    if (tile.is_inside) {
        float mean[kWidth];
        load_floats(mean, a.mean + tile.channel);
        with_mask<T, kWidth>(a, tile.channel, [&](const auto& mask) {
            const auto load = [&](uint64_t at) { return load_dy_and_x(a, mask, at); };
            for_each_row<2>(tile, first, end, a.channels, load, [&](uint64_t at, const auto& operands) {
                float x[kWidth], dz[kWidth];
                operands.x_and_dz(mask, x, dz);
                if (a.dz) store_vec(static_cast<T*>(a.dz) + at, rounded<T>(dz));
#pragma unroll
                for (int i = 0; i < kWidth; i++) {
                    sums[0][i] += dz[i];
                    sums[1][i] += dz[i] * (x[i] - mean[i]);
                }
            });
        });
    }
    float totals[2] = {};
    sum_rows<Tile>(sums, totals);
    const uint32_t channel = blockIdx.y * Tile::kChannels + threadIdx.x;
    if (threadIdx.x >= Tile::kChannels || channel >= a.channels) return;
    float* to = a.partials + uint64_t{2} * blockIdx.x * a.channels + channel;
    to[0] = totals[0];
    to[a.channels] = totals[1];
}

template <class T>
static __device__ void batch_norm_bwd_partials(const BatchNormBwdPartialsArgs& a) {
    if (a.is_wide) {
        partials<T, true>(a);
    } else {
        partials<T, false>(a);
    }
}

KERNEL(batch_norm_bwd_partials_f32, BatchNormBwdPartialsArgs, 256) { batch_norm_bwd_partials<float>(args); }
KERNEL(batch_norm_bwd_partials_bf16, BatchNormBwdPartialsArgs, 256) { batch_norm_bwd_partials<bf16>(args); }

template <int kSums>
static __device__ __forceinline__ void finalize(const BatchNormBwdFinalizeArgs& a) {
    const TotalTile tile(a.columns);
    const bool is_inside = tile.column < a.channels;
    const float spread = is_inside ? (a.save_rstd ? a.save_rstd : a.running_var)[tile.column] : 0.0f;
    const float shortcut_rstd = kSums == 3 && is_inside ? a.shortcut_rstd[tile.column] : 0.0f;
    struct Partial {
        float of[kSums];
    };
    const auto load = [&](uint32_t block) {
        const float* from = a.partials + uint64_t{kSums} * block * a.channels + tile.column;
        Partial partial;
#pragma unroll
        for (int n = 0; n < kSums; n++) partial.of[n] = from[n * a.channels];
        return partial;
    };
    double sums[kSums] = {};
    const Partial zero = {};
    tile.for_each_addend(is_inside ? a.num_blocks : 0, load, zero, [&](uint32_t, const Partial& partial) {
#pragma unroll
        for (int n = 0; n < kSums; n++) sums[n] += partial.of[n];
    });
    tile.add_rows(sums);
    if (tile.row != 0 || !is_inside) return;
    const float rstd = a.save_rstd ? spread : 1.0f / sqrtf(spread + a.eps);
    const uint64_t channel = tile.column;
    a.dgamma[channel] = static_cast<float>(sums[1] * rstd);
    a.dbeta[channel] = static_cast<float>(sums[0]);
    if (kSums == 3) {
        a.shortcut_dgamma[channel] = static_cast<float>(sums[kSums - 1] * shortcut_rstd);
        a.shortcut_dbeta[channel] = static_cast<float>(sums[0]);
    }
}

KERNEL(batch_norm_bwd_finalize, BatchNormBwdFinalizeArgs, 256) {
    if (args.shortcut_rstd) {
        finalize<3>(args);
    } else {
        finalize<2>(args);
    }
}
