// cast_tensors: the same numbers of many tensors at once, in another floating-point type or in another place
// Math      y[i] = x[i]
// Layout    groups (x, y) of tensors in the arena (multi_tensor.cuh): f32 to bf16, bf16 to f32, f32 to f32
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes of f32, 8 of bf16 a turn
// Cost      no flop; DRAM floor = bytes(tensors)
// Numerics  f32 to bf16 rounds to nearest even, as cast.cu; the others are exact
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference CastTensors and CopyTensors in src/ops/cast.rs
#include "multi_tensor.cuh"

struct CastTensorsArgs {
    uint64_t arena;
    TensorTable<2> tensors;
};

template <class From, class To>
static __device__ __forceinline__ void cast_tensors(const CastTensorsArgs& args) {
    const uint32_t tensor = args.tensors.find();
    const From* x = args.tensors.tensor<From>(args.arena, 0, tensor);
    To* y = args.tensors.tensor<To>(args.arena, 1, tensor);
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        float numbers[kWidth];
        load_packed<kWidth>(x + at).floats(numbers);
        store_vec(y + at, rounded<To>(numbers));
    });
}

KERNEL(cast_tensors_bf16, CastTensorsArgs, 256) { cast_tensors<float, bf16>(args); }

KERNEL(cast_tensors_f32, CastTensorsArgs, 256) { cast_tensors<bf16, float>(args); }

KERNEL(copy_tensors_f32, CastTensorsArgs, 256) { cast_tensors<float, float>(args); }
