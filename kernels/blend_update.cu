// blend_update: running statistics follow those of one batch, of all batch norms at once
// Math      running = (1 - share) * running + share * batch
// Layout    groups (running, batch) of f32 tensors in the arena (multi_tensor.cuh)
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      3 flop per element of tensors; DRAM floor = 3*4 bytes per element of tensors
// Numerics  as blended.cuh says; each element by itself
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference Blend in src/ops/blend.rs
#include "blended.cuh"
#include "multi_tensor.cuh"

struct BlendUpdateArgs {
    uint64_t arena;
    TensorTable<2> tensors;
    float share;
    uint32_t reserved;
};

KERNEL(blend_update, BlendUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* running = args.tensors.tensor(args.arena, 0, tensor);
    const float* batch = args.tensors.tensor(args.arena, 1, tensor);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> statistic = load_vec<kWidth>(running + at);
        const Vec<float, kWidth> of_batch = load_vec<kWidth>(batch + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) statistic[i] = blended(statistic[i], args.share, of_batch[i]);
        store_vec(running + at, statistic);
    });
}
