// softmax_xent_fwd: probabilities, mean cross-entropy with label smoothing, and hits, in two kernels
// Math      probs[n,j] = exp(logits[n,j] - m) / s with m = max_j, s = sum_j exp(logits[n,j] - m)
//           loss = mean over counted rows of log(s) + m - (1-e)*own - e*mean_j logits[n,j], e = label_smoothing, where own
//           is logits[n,label], or w[n]*logits[n,label] + (1-w[n])*logits[n,partner] where rows show two images mixed
//           hits = rows whose label ranks first, those whose label ranks among the first five, counted rows; a class
//           ranks before another if its logit is larger, or equal and its number lower. Label -1 is padding
// Layout    logits, probs: rows of `classes` f32; labels i32 [rows]; partners i32, weights f32 [rows] or both null; losses f32, ranks u32 [rows]; loss f32; hits i32 [3]
// Mapping   rows: warp -> row, lane -> every 32nd class; totals: one block, thread t takes rows t, t+256, ...
// Cost      6 flop per element of logits; DRAM floor = bytes(logits) + bytes(probs)
// Numerics  rows in f32, exponentials summed lane by lane, then a butterfly; losses added in f64 in an order that depends
//           on the number of rows alone; no float atomics, the same bits every run. A row with a NaN has a NaN loss and
//           is not a hit; so has one whose label is neither padding nor a class
// Requires  fewer than 2^31 rows and classes; grid.x = ceil(rows / 8) for the first kernel, 1 for the second
// Reference SoftmaxXent in src/ops/softmax_xent.rs
#include "softmax_xent.cuh"

struct SoftmaxXentRowsArgs {
    const float* logits;
    const int32_t* labels;
    const int32_t* partners;
    const float* weights;
    float* probs;
    float* losses;
    uint32_t* ranks;
    uint32_t rows, classes;
    double label_smoothing;
};

struct SoftmaxXentTotalsArgs {
    const float* losses;
    const uint32_t* ranks;
    const int32_t* labels;
    float* loss;
    int32_t* hits;
    uint64_t rows;
};

// Behind every class: rows that are no hit.
constexpr uint32_t kNoRank = 0xffffffffu;

KERNEL(softmax_xent_rows, SoftmaxXentRowsArgs, 256) {
    const uint32_t row = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarpThreads;
    const uint32_t lane = threadIdx.x % kWarpThreads;
    if (row >= args.rows) return;
    const float* logits = args.logits + uint64_t{row} * args.classes;
    float* probs = args.probs + uint64_t{row} * args.classes;
    // Lanes without a class see the first. Comparisons pass over a NaN; the exponentials bring it in.
    float largest = logits[0];
    for (uint32_t j = lane; j < args.classes; j += kWarpThreads) largest = logits[j] > largest ? logits[j] : largest;
    largest = warp_max(largest);
    float sum = 0.0f, sum_logits = 0.0f;
    for (uint32_t j = lane; j < args.classes; j += kWarpThreads) {
        sum += expf(logits[j] - largest);
        sum_logits += logits[j];
    }
    sum = warp_sum(sum);
    sum_logits = warp_sum(sum_logits);
    const float scale = 1.0f / sum;
    for (uint32_t j = lane; j < args.classes; j += kWarpThreads) probs[j] = expf(logits[j] - largest) * scale;

    const int32_t label = args.labels[row];
    bool is_class = is_class_of(label, args.classes);
    const float own = is_class ? logits[label] : 0.0f;
    uint32_t before = 0;
    for (uint32_t j = lane; j < args.classes; j += kWarpThreads) {
        before += logits[j] > own || (logits[j] == own && j < static_cast<uint32_t>(label)) ? 1 : 0;
    }
    before = warp_sum(before);
    if (lane != 0) return;
    const float smoothing = static_cast<float>(args.label_smoothing);
    const float log_sum = largest + logf(sum);
    float mixed = own;
    if (args.partners && is_class) {
        const int32_t partner = args.partners[row];
        const float weight = args.weights[row];
        is_class = is_class_of(partner, args.classes);
        if (is_class) mixed = weight * own + (1.0f - weight) * logits[partner];
    }
    float loss = log_sum - mixed;
    // Without smoothing the mean stays out of it: it may be infinite where the loss is not.
    if (smoothing != 0.0f) {
        loss = (1.0f - smoothing) * loss + smoothing * (log_sum - sum_logits / static_cast<float>(args.classes));
    }
    if (!is_class) loss = label == kPaddingLabel ? 0.0f : nanf("");
    args.losses[row] = loss;
    args.ranks[row] = is_class && log_sum == log_sum ? before : kNoRank;
}

KERNEL(softmax_xent_totals, SoftmaxXentTotalsArgs, 256) {
    double loss[1] = {};
    uint32_t counts[3] = {};
    for (uint64_t row = threadIdx.x; row < args.rows; row += 256) {
        loss[0] += args.losses[row];
        counts[0] += args.ranks[row] < 1;
        counts[1] += args.ranks[row] < 5;
        counts[2] += args.labels[row] != kPaddingLabel;
    }
    block_sum<256>(loss);
    block_sum<256>(counts);
    if (threadIdx.x != 0) return;
    *args.loss = static_cast<float>(loss[0] / max(counts[2], 1u));
    for (int i = 0; i < 3; i++) args.hits[i] = static_cast<int32_t>(counts[i]);
}
