// clip_norm: the L2 norm of all gradients together and the factor that clips it, in two kernels
// Math      norm = sqrt(sum of squares of all elements); scale = min(1, max_norm / (norm + 1e-6))
// Layout    f32 tensors in the arena (multi_tensor.cuh); partials: one f64 a chunk of 4096 elements, tensor by tensor;
//           scale, norm one f32 each
// Mapping   partials: block -> chunk of one tensor; thread -> 16 bytes a turn
//           total: one block, thread t takes partials t, t+256, ...
// Cost      2 flop per element of tensors; DRAM floor = 4 bytes per element of tensors
// Numerics  a thread adds its 16 squares in f32, threads and chunks are added in f64; the order depends on the shapes
//           alone, no atomics: the same bits every run. A norm that is not a number gives a scale that is none, so that
//           it reaches the weights, where the divergence check sees it
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all tensors of the launch for the first kernel, 1 for the
//           second
// Reference ClipNorm in src/ops/clip.rs
#include "multi_tensor.cuh"

struct ClipNormPartialsArgs {
    uint64_t arena;
    double* partials;
    TensorTable<1> tensors;
};

struct ClipNormTotalArgs {
    const double* partials;
    float* scale;
    float* norm;
    uint64_t num_partials;
    double max_norm;
};

KERNEL(clip_norm_partials, ClipNormPartialsArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    const float* grads = args.tensors.tensor(args.arena, 0, tensor);
    float sum = 0.0f;
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        const Vec<float, kWidth> grad = load_vec<kWidth>(grads + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) sum += grad[i] * grad[i];
    });
    const double total = block_sum<kTensorThreads>(static_cast<double>(sum));
    if (threadIdx.x == 0) args.partials[blockIdx.x] = total;
}

KERNEL(clip_norm_total, ClipNormTotalArgs, 256) {
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < args.num_partials; i += kTensorThreads) sum += args.partials[i];
    const double norm = sqrt(block_sum<kTensorThreads>(sum));
    if (threadIdx.x != 0) return;
    const double scale = args.max_norm / (norm + 1e-6);
    *args.norm = static_cast<float>(norm);
    *args.scale = static_cast<float>(scale > 1.0 ? 1.0 : scale);
}
