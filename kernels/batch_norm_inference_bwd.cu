// batch_norm_inference_bwd: the gradient of x where the statistics are constants
// Math      dx[m,c] = gamma[c] / sqrt(running_var[c] + eps) * dy[m,c]
// Layout    dy, dx: M rows of C channels; gamma, running_var f32 [C]
// Mapping   block -> block_rows rows of a channel tile (channels.cuh)
// Cost      1 flop per element of dy; DRAM floor = bytes(dy) + bytes(dx)
// Numerics  f32, rounded once to the type of dx
// Requires  dy and dx aligned to 16 bytes; is_wide only if C is a multiple of 16 / sizeof(T); grid =
//           (ceil(M / block_rows), channel tiles)
// Reference BatchNormInferenceBwd in src/ops/batch_norm/bwd.rs
#include "channels.cuh"

struct BatchNormInferenceBwdArgs {
    const void* dy;
    const float* gamma;
    const float* running_var;
    void* dx;
    uint64_t rows;
    uint32_t channels, block_rows, is_wide;
    float eps;
};

template <class T, bool kIsWide>
static __device__ void scale_rows(const BatchNormInferenceBwdArgs& a) {
    using Tile = ChannelTile<T, kIsWide>;
    constexpr int kWidth = Tile::kWidth;
    const Tile tile(a.channels);
    if (!tile.is_inside) return;
    float scale[kWidth], var[kWidth];
    load_floats(scale, a.gamma + tile.channel);
    load_floats(var, a.running_var + tile.channel);
#pragma unroll
    for (int i = 0; i < kWidth; i++) scale[i] *= 1.0f / sqrtf(var[i] + a.eps);
    const uint64_t first = uint64_t{blockIdx.x} * a.block_rows;
    const uint64_t end = min(first + a.block_rows, a.rows);
    for (uint64_t row = first + tile.row; row < end; row += Tile::kRows) {
        const uint64_t at = row * a.channels + tile.channel;
        Vec<T, kWidth> v = load_vec<kWidth>(static_cast<const T*>(a.dy) + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) v[i] = T(scale[i] * float(v[i]));
        store_vec(static_cast<T*>(a.dx) + at, v);
    }
}

template <class T>
static __device__ void batch_norm_inference_bwd(const BatchNormInferenceBwdArgs& a) {
    if (a.is_wide) {
        scale_rows<T, true>(a);
    } else {
        scale_rows<T, false>(a);
    }
}

KERNEL(batch_norm_inference_bwd_f32, BatchNormInferenceBwdArgs, 256) { batch_norm_inference_bwd<float>(args); }
KERNEL(batch_norm_inference_bwd_bf16, BatchNormInferenceBwdArgs, 256) { batch_norm_inference_bwd<bf16>(args); }
