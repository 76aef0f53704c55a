// add_bias_bwd: the gradient of a bias, the sum over all rows, in two kernels
// Math      dbias[c] = sum_m dy[m,c]
// Layout    dy: M rows of C channels; partials f32 [row block][C]; dbias f32 [C]
// Mapping   partials: block -> block_rows rows of a channel tile (channels.cuh)
//           total: the blocks' sums as in totals.cuh, a column a channel
// Cost      1 flop per element of dy; DRAM floor = bytes(dy)
// Numerics  a thread adds in f32, at most block_rows / 32 rows; blocks are added in f64. The order depends on the shape
//           alone, no atomics: the same bits every run
// Requires  dy aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles) for the first kernel, ceil(C / columns) for the second
// Reference AddBiasBwd in src/ops/bias.rs
#include "channels.cuh"
#include "totals.cuh"

struct AddBiasBwdPartialsArgs {
    const void* dy;
    float* partials;
    uint32_t rows, channels, block_rows, is_wide;
};

struct AddBiasBwdTotalArgs {
    const float* partials;
    float* dbias;
    uint32_t num_blocks, columns;
    uint64_t channels;
};

template <class T, bool kIsWide>
static __device__ void partials(const AddBiasBwdPartialsArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    const uint32_t first = blockIdx.x * a.block_rows;
    const uint32_t end = first + min(a.block_rows, a.rows - first);
    float sums[1][kWidth] = {};
    if (tile.is_inside) {
        for (uint32_t row = first + tile.row; row < end; row += Tile::kRows) {
            const uint64_t at = uint64_t{row} * a.channels + tile.channel;
            const Vec<T, kWidth> dy = load_vec<kWidth>(static_cast<const T*>(a.dy) + at);
#pragma unroll
            for (int i = 0; i < kWidth; i++) sums[0][i] += float(dy[i]);
        }
    }
    float totals[1] = {};
    sum_rows<Tile>(sums, totals);
    const uint32_t channel = blockIdx.y * Tile::kChannels + threadIdx.x;
    if (threadIdx.x >= Tile::kChannels || channel >= a.channels) return;
    a.partials[uint64_t{blockIdx.x} * a.channels + channel] = totals[0];
}

template <class T>
static __device__ void add_bias_bwd_partials(const AddBiasBwdPartialsArgs& a) {
    if (a.is_wide) {
        partials<T, true>(a);
    } else {
        partials<T, false>(a);
    }
}

KERNEL(add_bias_bwd_partials_f32, AddBiasBwdPartialsArgs, 256) { add_bias_bwd_partials<float>(args); }
KERNEL(add_bias_bwd_partials_bf16, AddBiasBwdPartialsArgs, 256) { add_bias_bwd_partials<bf16>(args); }

KERNEL(add_bias_bwd_total, AddBiasBwdTotalArgs, 256) {
    const TotalTile tile(args.columns);
    const bool is_inside = tile.column < args.channels;
    const auto load = [&](uint32_t block) { return args.partials[block * args.channels + tile.column]; };
    double sums[1] = {};
    tile.for_each_addend(is_inside ? args.num_blocks : 0, load, 0.0f,
                         [&](uint32_t, float partial) { sums[0] += partial; });
    tile.add_rows(sums);
    if (tile.row == 0 && is_inside) args.dbias[tile.column] = static_cast<float>(sums[0]);
}
