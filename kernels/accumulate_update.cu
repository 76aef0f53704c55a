// accumulate_update: adds the gradients of a micro-batch to their running sums, all tensors at once
// Math      sum += term
// Layout    groups (sum, term) of f32 tensors in the arena (multi_tensor.cuh)
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      1 flop per element of tensors; DRAM floor = 3*4 bytes per element of tensors
// Numerics  f32, each element by itself
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference Accumulate in src/ops/accumulate.rs
#include "multi_tensor.cuh"

struct AccumulateUpdateArgs {
    uint64_t arena;
    TensorTable<2> tensors;
};

KERNEL(accumulate_update, AccumulateUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* sums = args.tensors.tensor(args.arena, 0, tensor);
    const float* terms = args.tensors.tensor(args.arena, 1, tensor);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> sum = load_vec<kWidth>(sums + at);
        const Vec<float, kWidth> term = load_vec<kWidth>(terms + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) sum[i] += term[i];
        store_vec(sums + at, sum);
    });
}
