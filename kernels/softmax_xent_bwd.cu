// softmax_xent_bwd: the gradient of the logits
// Math      dlogits[n,j] = dloss / counted * (probs[n,j] - (j == label ? 1-e : 0) - e/classes), e = label_smoothing; 0
//           for padding (label -1); where rows show two images mixed, the label's 1-e is shared out as w[n] to the label and
//           1-w[n] to the partner
// Layout    probs, dlogits: rows of `classes` f32; labels i32 [rows]; partners i32, weights f32 [rows] or both null; dloss
//           one f32; dlogits may lie over probs
// Mapping   warp -> row, lane -> every 32nd class; every block counts the labels itself
// Cost      3 flop per element of probs; DRAM floor = bytes(probs) + bytes(dlogits)
// Numerics  f32; no atomics
// Requires  fewer than 2^31 rows and classes; grid.x = ceil(rows / 8)
// Reference SoftmaxXentBwd in src/ops/softmax_xent.rs
#include "softmax_xent.cuh"

struct SoftmaxXentBwdArgs {
    const float* dloss;
    const float* probs;
    const int32_t* labels;
    const int32_t* partners;
    const float* weights;
    float* dlogits;
    uint32_t rows, classes;
    double label_smoothing;
};

KERNEL(softmax_xent_bwd, SoftmaxXentBwdArgs, 256) {
    uint32_t counted = 0;
    for (uint32_t row = threadIdx.x; row < args.rows; row += 256) counted += args.labels[row] != kPaddingLabel;
    counted = block_sum<256>(counted);
    const uint32_t row = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarpThreads;
    const uint32_t lane = threadIdx.x % kWarpThreads;
    if (row >= args.rows) return;
    const float scale = *args.dloss * (1.0f / static_cast<float>(max(counted, 1u)));
    const float spread = static_cast<float>(args.label_smoothing / args.classes);
    const float peak = static_cast<float>(1.0 - args.label_smoothing);
    const int32_t label = args.labels[row];
    const int32_t partner = args.partners ? args.partners[row] : label;
    const float weight = args.partners ? args.weights[row] : 1.0f;
    const float* probs = args.probs + uint64_t{row} * args.classes;
    float* dlogits = args.dlogits + uint64_t{row} * args.classes;
    for (uint32_t j = lane; j < args.classes; j += kWarpThreads) {
        float target = j == static_cast<uint32_t>(label) ? peak * weight : 0.0f;
        target += j == static_cast<uint32_t>(partner) ? peak * (1.0f - weight) : 0.0f;
        dlogits[j] = label == kPaddingLabel ? 0.0f : (probs[j] - target - spread) * scale;
    }
}
