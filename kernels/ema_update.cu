// ema_update: exponential moving averages of all weights and statistics at once
// Math      average = decay*average + (1 - decay)*value
// Layout    groups (average, value) of f32 tensors in the arena (multi_tensor.cuh)
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      3 flop per element of tensors; DRAM floor = 3*4 bytes per element of tensors
// Numerics  f32, each element by itself
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference Ema in src/ops/ema.rs
#include "multi_tensor.cuh"

struct EmaUpdateArgs {
    uint64_t arena;
    TensorTable<2> tensors;
    double decay;
};

KERNEL(ema_update, EmaUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* averages = args.tensors.tensor(args.arena, 0, tensor);
    const float* values = args.tensors.tensor(args.arena, 1, tensor);
    const float decay = static_cast<float>(args.decay);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> average = load_vec<kWidth>(averages + at);
        const Vec<float, kWidth> value = load_vec<kWidth>(values + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) average[i] = average[i] * decay + value[i] * (1.0f - decay);
        store_vec(averages + at, average);
    });
}
