// adam_update: Adam and AdamW for all parameters at once
// Math      g = grad_scale*grad + l2*param; moment1 += (g - moment1)*share1; moment2 = beta2*moment2 + share2*g^2;
//           param = (1 - lr*decay)*param - lr/correction1 * moment1 / (sqrt(moment2)/sqrt(correction2) + eps)
//           with share = 1 - beta, correction = 1 - beta^t; Adam has an l2, AdamW a decay
// Layout    groups (param, grad, moment1, moment2) of f32 tensors in the arena (multi_tensor.cuh); hyper f32 [lr,
//           correction1, correction2, ..]; grad_scale one f32
// Mapping   block -> chunk of 4096 elements of one group; thread -> 16 bytes a tensor and turn
// Cost      14 flop per element of tensors; DRAM floor = 7*4 bytes per element of tensors
// Numerics  f32, each element by itself; IEEE square root and division
// Requires  tensors aligned to 64 bytes; grid.x = chunks of all groups
// Reference Adam in src/ops/adam.rs
#include "multi_tensor.cuh"

struct AdamUpdateArgs {
    uint64_t arena;
    const float* hyper;
    const float* grad_scale;
    TensorTable<4> tensors;
    float share1, share2, beta2, eps, l2, decay;
};

KERNEL(adam_update, AdamUpdateArgs, 256) {
    const uint32_t tensor = args.tensors.find();
    float* params = args.tensors.tensor(args.arena, 0, tensor);
    const float* grads = args.tensors.tensor(args.arena, 1, tensor);
    float* moments1 = args.tensors.tensor(args.arena, 2, tensor);
    float* moments2 = args.tensors.tensor(args.arena, 3, tensor);
    const float lr = args.hyper[0], grad_scale = *args.grad_scale;
    const float step = lr / args.hyper[1], root_correction2 = sqrtf(args.hyper[2]);
    const float shrink = 1.0f - lr * args.decay;
    for_each_in_chunk(args.tensors, tensor, [&](auto width, uint32_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> param = load_vec<kWidth>(params + at);
        Vec<float, kWidth> moment1 = load_vec<kWidth>(moments1 + at);
        Vec<float, kWidth> moment2 = load_vec<kWidth>(moments2 + at);
        const Vec<float, kWidth> grad = load_vec<kWidth>(grads + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            const float g = grad[i] * grad_scale + param[i] * args.l2;
            moment1[i] += (g - moment1[i]) * args.share1;
            moment2[i] = moment2[i] * args.beta2 + g * g * args.share2;
            param[i] = param[i] * shrink - step * moment1[i] / (sqrtf(moment2[i]) / root_correction2 + args.eps);
        }
        store_vec(params + at, param);
        store_vec(moments1 + at, moment1);
        store_vec(moments2 + at, moment2);
    });
}
