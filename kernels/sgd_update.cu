// sgd_update: stochastic gradient descent with momentum for all parameters at once
// Math      g = grad_scale*grad + weight_decay*param; velocity = momentum*velocity + g;
//           param -= lr * (nesterov ? g + momentum*velocity : velocity)
// Layout    groups (param, grad, velocity) of f32 tensors in the arena (multi_tensor.cuh); hyper f32 [lr, ..]; grad_scale
//           one f32
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      6 flop per element of tensors; DRAM floor = 5*4 bytes per element of tensors
// Numerics  f32, each element by itself
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference Sgd in src/ops/sgd.rs
#include "multi_tensor.cuh"

struct SgdUpdateArgs {
    uint64_t arena;
    const float* hyper;
    const float* grad_scale;
    TensorTable<3> tensors;
    float momentum, weight_decay;
    uint64_t nesterov;
};

KERNEL(sgd_update, SgdUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* params = args.tensors.tensor(args.arena, 0, tensor);
    const float* grads = args.tensors.tensor(args.arena, 1, tensor);
    float* velocities = args.tensors.tensor(args.arena, 2, tensor);
    const float lr = args.hyper[0], grad_scale = *args.grad_scale;
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> param = load_vec<kWidth>(params + at);
        Vec<float, kWidth> velocity = load_vec<kWidth>(velocities + at);
        const Vec<float, kWidth> grad = load_vec<kWidth>(grads + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            const float g = grad[i] * grad_scale + param[i] * args.weight_decay;
            velocity[i] = velocity[i] * args.momentum + g;
            param[i] -= lr * (args.nesterov ? g + velocity[i] * args.momentum : velocity[i]);
        }
        store_vec(params + at, param);
        store_vec(velocities + at, velocity);
    });
}
