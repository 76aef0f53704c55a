// tree_accumulate_update: adds the gradients of micro-batches in pairs, then their sums in pairs, and so on, all tensors at once
// Math      after the last round, sum = ((term of round 0 + term of 1) + (term of 2 + term of 3)) + ..
// Layout    groups (sum, waiting, term) of f32 tensors in the arena (multi_tensor.cuh); waiting is [num_waiting][n], each row filled
//           up to whole places; round one i32
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      1 flop per element of tensors; DRAM floor = 3*4 bytes per element of tensors
// Numerics  f32, each element by itself. Over all rounds, one addition a round on average
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups; *round < 2^(num_waiting + 1)
// Reference TreeAccumulate in src/ops/tree_sum.rs
#include "multi_tensor.cuh"

struct TreeAccumulateUpdateArgs {
    uint64_t arena;
    const int32_t* round;
    TensorTable<3> tensors;
    uint32_t num_waiting, reserved;
};

KERNEL(tree_accumulate_update, TreeAccumulateUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* sums = args.tensors.tensor(args.arena, 0, tensor);
    float* waiting = args.tensors.tensor(args.arena, 1, tensor);
    const float* terms = args.tensors.tensor(args.arena, 2, tensor);
    constexpr uint32_t kPlaceElems = kPlaceBytes / sizeof(float);
    const uint64_t row = (args.tensors.num_elems[tensor] + kPlaceElems - 1) / kPlaceElems * kPlaceElems;
    // The sum is the last level.
    const auto level = [&](uint32_t index) { return index < args.num_waiting ? waiting + index * row : sums; };
    const uint32_t round = *args.round;
    uint32_t num_pairs = 0;
    while (round >> num_pairs & 1) num_pairs++;
    float* left = level(min(num_pairs, args.num_waiting));
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> sum = load_vec<kWidth>(terms + at);
        for (uint32_t index = 0; index < num_pairs; index++) {
            const Vec<float, kWidth> other = load_vec<kWidth>(level(index) + at);
#pragma unroll
            for (int i = 0; i < kWidth; i++) sum[i] = other[i] + sum[i];
        }
        store_vec(left + at, sum);
    });
}
