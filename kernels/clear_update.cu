// clear_update: sets tensors to zero, all at once
// Math      tensor = 0
// Layout    f32 tensors in the arena (multi_tensor.cuh)
// Mapping   block -> chunk of 4096 elements of one tensor; thread -> 16 bytes a turn
// Cost      no flop; DRAM floor = 4 bytes per element of tensors
// Numerics  exact
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all tensors
// Reference Clear in src/ops/accumulate.rs
#include "multi_tensor.cuh"

struct ClearUpdateArgs {
    uint64_t arena;
    TensorTable<1> tensors;
};

KERNEL(clear_update, ClearUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* values = args.tensors.tensor(args.arena, 0, tensor);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        store_vec(values + at, Vec<float, decltype(width)::value>{});
    });
}
