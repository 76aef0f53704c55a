// batch_norm_stats: mean and variance of each channel over a batch, in two kernels
// Math      mean[c] = sum_m x[m,c] / M; var[c] = sum_m (x[m,c] - mean[c])^2 / M; save_rstd = 1 / sqrt(var + eps)
//           running = (1 - bn_momentum) * running + bn_momentum * batch, its variance divided by M - 1 (blended.cuh)
// Layout    x: M rows of C channels (NHWC: M = N*H*W); partials f32 [row block][mean, m2][C]; the rest f32 [C]
// Mapping   partials: block -> block_rows rows of a channel tile (channels.cuh); thread -> every 32nd row (8th where
//           rows are not whole vectors)
//           finalize: the blocks' results as in totals.cuh, a column a channel
// Cost      4 flop per element of x; DRAM floor = bytes(x)
// Numerics  Sums are taken of x - pivot, the pivot being the channel's value in the block's first row: a mean that dwarfs
//           the deviation does not cancel it. A thread adds in f32, at most block_rows / 32 rows; the blocks' means and
//           centred sums of squares (m2) combine in f64 by Chan, Golub and LeVeque, "Updating formulae and a pairwise
//           algorithm for computing sample variances" (1979), about a pivot again: with d = a block's mean - that of the
//           first, m2 = sum(m2 + rows * d^2) - sum(rows * d)^2 / M. The first block deviates from the mean, too, so the
//           difference is at least 1 / (number of blocks + 1) of what it is taken from: ten bits of 48 for 1,024 blocks.
//           The order depends on the shape alone, no atomics: the same bits every run
// Requires  x aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid = (ceil(M / block_rows),
//           channel tiles) for the first kernel, ceil(C / columns) for the second; M >= 2
// Reference BatchNormTrain in src/ops/batch_norm/train.rs
#include "blended.cuh"
#include "channels.cuh"
#include "totals.cuh"

struct BatchNormPartialsArgs {
    const void* x;
    float* partials;
    uint32_t rows, channels, block_rows, is_wide;
};

struct BatchNormFinalizeArgs {
    const float* partials;
    float* running_mean;
    float* running_var;
    float* save_mean;
    float* save_rstd;
    uint32_t num_blocks, rows, channels, block_rows, last_rows, columns;
    float eps, bn_momentum;
    float per_row, per_degree;  // 1 / M and 1 / (M - 1)
};

template <class T, bool kIsWide>
static __device__ void partials(const BatchNormPartialsArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t count = min(a.block_rows, a.rows - first);
    const T* x = static_cast<const T*>(a.x);
    const T* first_row = x + uint64_t{first} * a.channels;
    float sums[2][kWidth] = {};
    if (tile.is_inside) {
        float pivot[kWidth];
        load_packed<kWidth>(first_row + tile.channel).floats(pivot);
        const auto load = [&](uint64_t at) { return load_packed<kWidth>(x + at); };
        for_each_row<4>(tile, first, first + count, a.channels, load, [&](uint64_t, const Packed<T, kWidth>& packed) {
            float x[kWidth];
            packed.floats(x);
#pragma unroll
            for (int i = 0; i < kWidth; i++) {
                const float apart = x[i] - pivot[i];
                sums[0][i] += apart;
                sums[1][i] += apart * apart;
            }
        });
    }
    float totals[2] = {};
    sum_rows<Tile>(sums, totals);
    const uint32_t channel = blockIdx.y * Tile::kChannels + threadIdx.x;
    if (threadIdx.x >= Tile::kChannels || channel >= a.channels) return;
    const float apart = totals[0] / static_cast<float>(count);
    float* to = a.partials + uint64_t{2} * blockIdx.x * a.channels + channel;
    to[0] = float(first_row[channel]) + apart;
    to[a.channels] = totals[1] - totals[0] * apart;
}

template <class T>
static __device__ void batch_norm_partials(const BatchNormPartialsArgs& a) {
    if (a.is_wide) {
        partials<T, true>(a);
    } else {
        partials<T, false>(a);
    }
}

KERNEL(batch_norm_partials_f32, BatchNormPartialsArgs, 256) { batch_norm_partials<float>(args); }
KERNEL(batch_norm_partials_bf16, BatchNormPartialsArgs, 256) { batch_norm_partials<bf16>(args); }

// 1 / of, from what is near it: a step of Newton's method, which doubles the digits in a fraction of the time of a division.
static __device__ __forceinline__ double reciprocal(float near, double of) {
    return fma(double{near}, fma(-of, double{near}, 1.0), double{near});
}

KERNEL(batch_norm_finalize, BatchNormFinalizeArgs, 256) {
    const TotalTile tile(args.columns);
    const bool is_inside = tile.column < args.channels;
    const float* partials = args.partials + tile.column;
    // All that is read, at once: waiting is what this kernel does most.
    const float pivot = is_inside ? partials[0] : 0.0f;
    const float running_mean = is_inside ? args.running_mean[tile.column] : 0.0f;
    const float running_var = is_inside ? args.running_var[tile.column] : 0.0f;
    const auto load = [&](uint32_t block) {
        const float* mean = partials + uint64_t{2} * block * args.channels;
        return Vec<float, 2>{mean[0], mean[args.channels]};
    };
    double sums[2] = {};
    const Vec<float, 2> zero = {};
    tile.for_each_addend(is_inside ? args.num_blocks : 0, load, zero, [&](uint32_t block, const Vec<float, 2>& mean_m2) {
        const double rows = block + 1 < args.num_blocks ? args.block_rows : block < args.num_blocks ? args.last_rows : 0;
        const double apart = mean_m2[0] - pivot;  // in f32: exact for means that are close, else rounded as they are
        sums[0] += rows * apart;
        sums[1] += mean_m2[1] + rows * apart * apart;
    });
    tile.add_rows(sums);
    if (tile.row != 0 || !is_inside) return;
    const uint64_t channel = tile.column;
    const double per_row = reciprocal(args.per_row, args.rows), apart = sums[0] * per_row;
    const double mean = pivot + apart, m2 = sums[1] - sums[0] * apart;
    const float batch_mean = static_cast<float>(mean), batch_var = static_cast<float>(m2 * reciprocal(args.per_degree, args.rows - 1.0));
    args.save_mean[channel] = batch_mean;
    args.save_rstd[channel] = 1.0f / sqrtf(static_cast<float>(m2 * per_row + double{args.eps}));
    args.running_mean[channel] = blended(running_mean, args.bn_momentum, batch_mean);
    args.running_var[channel] = blended(running_var, args.bn_momentum, batch_var);
}
