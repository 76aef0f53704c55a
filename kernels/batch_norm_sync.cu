// batch_norm_sync: batch norms by the batches of all ranks, in two kernels: of their statistics, and of the sums of the backward pass
// Math      R ranks with a batch of M rows each, of mean[r] and unbiased variance var[r]:
//           mean = sum_r mean[r] / R; m2 = sum_r (var[r] * (M - 1) + M * (mean[r] - mean)^2)
//           save_mean = mean; save_rstd = 1 / sqrt(m2 / (R * M) + eps); running follows mean and m2 / (R * M - 1) (blended.cuh)
//           dgamma = sum_r dgamma[r] / R, dbeta alike
// Layout    of_ranks f32 [mean, var][R][C]; sums f32 [dgamma, dbeta][R][C]; the rest f32 [C]
// Mapping   thread -> a channel
// Cost      4 flop per element of of_ranks, 1 flop per element of sums; DRAM floor = bytes(of_ranks) + bytes(sums)
// Numerics  f64, in the order of ranks; the two looks at the means leave nothing to cancel
// Requires  grid.x = ceil(C / 256); R * M >= 2
// Reference BatchNormSync and BatchNormSyncSums in src/ops/batch_norm/sync.rs
#include "blended.cuh"

struct BatchNormSyncArgs {
    const float* of_ranks;
    float* running_mean;
    float* running_var;
    float* save_mean;
    float* save_rstd;
    uint32_t num_ranks, channels, rows;
    float eps, bn_momentum;
    uint32_t reserved;
};

struct BatchNormSyncSumsArgs {
    const float* sums;
    float* dgamma;
    float* dbeta;
    uint32_t num_ranks, channels;
};

// The sum of what the ranks have of a channel.
static __device__ __forceinline__ double sum_over_ranks(const float* of_ranks, uint32_t num_ranks, uint32_t channels) {
    double sum = 0.0;
    for (uint32_t rank = 0; rank < num_ranks; rank++) sum += of_ranks[uint64_t{rank} * channels];
    return sum;
}

KERNEL(batch_norm_sync, BatchNormSyncArgs, 256) {
    const uint32_t channel = blockIdx.x * 256 + threadIdx.x;
    if (channel >= args.channels) return;
    const float* means = args.of_ranks + channel;
    const float* vars = means + uint64_t{args.num_ranks} * args.channels;
    const double rows = args.rows, all_rows = rows * args.num_ranks;
    const double mean = sum_over_ranks(means, args.num_ranks, args.channels) / args.num_ranks;
    double m2 = 0.0;
    for (uint32_t rank = 0; rank < args.num_ranks; rank++) {
        const uint64_t at = uint64_t{rank} * args.channels;
        const double apart = means[at] - mean;
        m2 += vars[at] * (rows - 1.0) + rows * apart * apart;
    }
    args.save_mean[channel] = static_cast<float>(mean);
    args.save_rstd[channel] = static_cast<float>(1.0 / sqrt(m2 / all_rows + args.eps));
    const float batch_mean = static_cast<float>(mean), batch_var = static_cast<float>(m2 / (all_rows - 1.0));
    args.running_mean[channel] = blended(args.running_mean[channel], args.bn_momentum, batch_mean);
    args.running_var[channel] = blended(args.running_var[channel], args.bn_momentum, batch_var);
}

KERNEL(batch_norm_sync_sums, BatchNormSyncSumsArgs, 256) {
    const uint32_t channel = blockIdx.x * 256 + threadIdx.x;
    if (channel >= args.channels) return;
    const float* dgamma = args.sums + channel;
    const float* dbeta = dgamma + uint64_t{args.num_ranks} * args.channels;
    const auto mean = [&](const float* sums) {
        return static_cast<float>(sum_over_ranks(sums, args.num_ranks, args.channels) / args.num_ranks);
    };
    args.dgamma[channel] = mean(dgamma);
    args.dbeta[channel] = mean(dbeta);
}
