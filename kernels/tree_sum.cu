// tree_sum: adds what every rank sent in pairs, then their sums in pairs, and so on
// Math      sum[i] = ((received[0][i] + received[1][i]) + (received[2][i] + received[3][i])) + ..
// Layout    received f32 or bf16 [ranks][num_elems], sum f32 [num_elems]
// Mapping   thread -> 16 bytes of the sum, then those a whole grid further on
// Cost      1 flop per element of received; DRAM floor = bytes(received) + bytes(sum)
// Numerics  f32, by a balanced tree over the ranks: sums of neighbours may be taken where they are near each other
// Requires  pointers aligned to 16 bytes; num_elems a multiple of 4; num_ranks a power of two, at most 2^kMostTreeLevels
// Reference TreeSum in src/ops/tree_sum.rs
#include "rank_sum.cuh"

// Pairs of pairs of .. ranks that a sum takes.
FOR_RUST constexpr int kMostTreeLevels = 10;

template <class T>
static __device__ __forceinline__ void add_in_pairs(const RankSumArgs& args) {
    for_each_vec<kVecElems<float>>(args.num_elems, [&](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        // Of each level, the sum that waits for its pair: those of the levels that are ones in the number of the rank.
        Vec<float, kWidth> waiting[kMostTreeLevels], sum;
        for (uint32_t rank = 0; rank < args.num_ranks; rank++) {
            sum = args.terms<T, kWidth>(rank, at);
            // Without a break, so that the loop is unrolled and what waits stays in registers.
            bool has_pair = true;
#pragma unroll
            for (int level = 0; level < kMostTreeLevels; level++) {
                if (has_pair && (rank >> level & 1)) {
                    add_to(sum, waiting[level]);
                } else if (has_pair) {
                    waiting[level] = sum;
                    has_pair = false;
                }
            }
        }
        store_vec(args.sum + at, sum);
    });
}

KERNEL(tree_sum_f32, RankSumArgs, 256) { add_in_pairs<float>(args); }

KERNEL(tree_sum_bf16, RankSumArgs, 256) { add_in_pairs<bf16>(args); }
