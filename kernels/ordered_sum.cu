// ordered_sum: adds what every rank sent, one after the other
// Math      sum[i] = ((sum[i] + received[0][i]) + received[1][i]) + ..
// Layout    received f32 or bf16 [ranks][num_elems], sum f32 [num_elems]
// Mapping   thread -> 16 bytes of the sum, then those a whole grid further on
// Cost      1 flop per element of received; DRAM floor = bytes(received)
// Numerics  f32, in the order of ranks: the chain that one rank makes of as many batches one after the other
// Requires  pointers aligned to 16 bytes; num_elems a multiple of 4
// Reference OrderedSum in src/ops/ordered_sum.rs
#include "elementwise.cuh"

struct OrderedSumArgs {
    const void* received;
    float* sum;
    uint64_t num_elems;
    uint32_t num_ranks, reserved;
};

template <class T>
static __device__ __forceinline__ void add_in_order(const OrderedSumArgs& args) {
    constexpr int kWidth = kVecElems<float>;
    const T* received = static_cast<const T*>(args.received);
    const uint64_t num_vecs = args.num_elems / kWidth;
    for (uint64_t vec = grid_thread(); vec < num_vecs; vec += grid_threads()) {
        const uint64_t at = vec * kWidth;
        Vec<float, kWidth> sum = load_vec<kWidth>(args.sum + at);
        for (uint32_t rank = 0; rank < args.num_ranks; rank++) {
            float terms[kWidth];
            load_packed<kWidth>(received + rank * args.num_elems + at).floats(terms);
#pragma unroll
            for (int i = 0; i < kWidth; i++) sum[i] += terms[i];
        }
        store_vec(args.sum + at, sum);
    }
}

KERNEL(ordered_sum_f32, OrderedSumArgs, 256) { add_in_order<float>(args); }

KERNEL(ordered_sum_bf16, OrderedSumArgs, 256) { add_in_order<bf16>(args); }
