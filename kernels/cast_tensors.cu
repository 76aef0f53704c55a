// cast_tensors: the bf16 copies of many f32 tensors at once
// Math      y[i] = x[i]
// Layout    groups (x f32, y bf16) of tensors in the arena (multi_tensor.cuh)
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes of x, 8 of y a turn
// Cost      no flop; DRAM floor = 6 bytes per element of tensors
// Numerics  rounds to nearest even, as cast.cu
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference CastTensors in src/ops/cast.rs
#include "multi_tensor.cuh"

struct CastTensorsArgs {
    uint64_t arena;
    TensorTable<2> tensors;
};

KERNEL(cast_tensors_bf16, CastTensorsArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    const float* x = args.tensors.tensor(args.arena, 0, tensor);
    bf16* y = args.tensors.tensor<bf16>(args.arena, 1, tensor);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        const Vec<float, kWidth> from = load_vec<kWidth>(x + at);
        store_vec(y + at, rounded<bf16>(from.elems));
    });
}
