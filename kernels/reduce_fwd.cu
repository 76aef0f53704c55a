// reduce_fwd: the sum or the mean of all elements, in two kernels
// Math      partials[b] = sum of chunk b of x; y = scale * sum_b partials[b]
// Layout    x: num_elems elements of any shape; partials: one f64 a chunk of 4096 elements; y: one f32
// Mapping   partials: block -> chunk; thread -> 16 bytes, then the 16 bytes 256 threads further on, and so on
//           total: one block, thread t takes partials t, t+256, ...
// Cost      1 flop per element of x; DRAM floor = bytes(x)
// Numerics  a thread adds its 16 elements in f32, threads and chunks are added in f64; the order depends on num_elems
//           alone, no atomics: the same bits every run
// Requires  x aligned to 16 bytes; grid.x = ceil(num_elems / 4096) for the first kernel, 1 for the second
// Reference Reduce in src/ops/reduce.rs
#include "elementwise.cuh"

constexpr int kThreads = 256;
// Elements that one block sums.
FOR_RUST constexpr int kChunkElems = 4096;

struct ReducePartialsArgs {
    const void* x;
    double* partials;
    uint64_t num_elems;
};

struct ReduceTotalArgs {
    const double* partials;
    float* y;
    uint64_t num_partials;
    double scale;
};

template <class T>
static __device__ void reduce_partials(const ReducePartialsArgs& a) {
    constexpr int kWidth = kVecElems<T>;
    const uint64_t first = uint64_t{blockIdx.x} * kChunkElems;
    const uint64_t end = min(first + kChunkElems, a.num_elems);
    const T* x = static_cast<const T*>(a.x);
    float sum = 0.0f;
#pragma unroll
    for (int turn = 0; turn < kChunkElems / (kThreads * kWidth); turn++) {
        const uint64_t at = first + (turn * kThreads + threadIdx.x) * kWidth;
        if (at + kWidth <= end) {
            const Vec<T, kWidth> v = load_vec<kWidth>(x + at);
#pragma unroll
            for (int i = 0; i < kWidth; i++) sum += float(v[i]);
        } else {
            for (uint64_t i = at; i < end; i++) sum += float(x[i]);
        }
    }
    const double total = block_sum<kThreads>(static_cast<double>(sum));
    if (threadIdx.x == 0) a.partials[blockIdx.x] = total;
}

KERNEL(reduce_partials_f32, ReducePartialsArgs, 256) { reduce_partials<float>(args); }
KERNEL(reduce_partials_bf16, ReducePartialsArgs, 256) { reduce_partials<bf16>(args); }

KERNEL(reduce_total, ReduceTotalArgs, 256) {
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < args.num_partials; i += kThreads) sum += args.partials[i];
    const double total = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) *args.y = static_cast<float>(total * args.scale);
}
