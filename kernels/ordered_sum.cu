// ordered_sum: adds what every rank sent, one after the other
// Math      sum[i] = ((sum[i] + received[0][i]) + received[1][i]) + ..
// Layout    received f32 or bf16 [ranks][num_elems], sum f32 [num_elems]
// Mapping   thread -> 16 bytes of the sum, then those a whole grid further on
// Cost      1 flop per element of received; DRAM floor = bytes(received)
// Numerics  f32, in the order of ranks: the chain that one rank makes of as many batches one after the other
// Requires  pointers aligned to 16 bytes; num_elems a multiple of 4
// Reference OrderedSum in src/ops/ordered_sum.rs
#include "rank_sum.cuh"

template <class T>
static __device__ __forceinline__ void add_in_order(const RankSumArgs& args) {
    for_each_vec<kVecElems<float>>(args.num_elems, [&](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<float, kWidth> sum = load_vec<kWidth>(args.sum + at);
        for (uint32_t rank = 0; rank < args.num_ranks; rank++) add_to(sum, args.terms<T, kWidth>(rank, at));
        store_vec(args.sum + at, sum);
    });
}

KERNEL(ordered_sum_f32, RankSumArgs, 256) { add_in_order<float>(args); }

KERNEL(ordered_sum_bf16, RankSumArgs, 256) { add_in_order<bf16>(args); }
