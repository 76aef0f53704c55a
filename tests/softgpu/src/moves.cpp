// mov: a register, several packed into one, one taken apart.
#include "block.hpp"
#include "handlers.hpp"
#include "warp.hpp"

namespace softgpu {
namespace {

template <class Word>
void move(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    Word* d = lanes_of<Word>(warp, in.results[0]);
    const Word* a = lanes_of<Word>(warp, in.sources[0]);
    each_lane(lane_mask, [=](int lane) { d[lane] = a[lane]; });
}

constexpr uint64_t low_bits(unsigned num_bits) { return (uint64_t{1} << num_bits) - 1; }

// The first register becomes the lowest bits.
template <class Word>
void pack(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    Word* d = lanes_of<Word>(warp, in.results[0]);
    const unsigned part_bits = 8 * sizeof(Word) / in.num_sources;
    const uint32_t* parts[8];
    for (int index = 0; index < in.num_sources; index++) parts[index] = warp.words_of(in.sources[index]);
    each_lane(lane_mask, [&](int lane) {
        uint64_t value = 0;
        for (unsigned index = 0; index < in.num_sources; index++) {
            value |= (parts[index][lane] & low_bits(part_bits)) << (part_bits * index);
        }
        d[lane] = static_cast<Word>(value);
    });
}

template <class Word>
void unpack(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const Word* a = lanes_of<Word>(warp, in.sources[0]);
    const unsigned part_bits = 8 * sizeof(Word) / in.num_results;
    for (unsigned index = 0; index < in.num_results; index++) {
        if (!in.results[index]) continue;
        uint32_t* part = warp.words_of(in.results[index]);
        each_lane(lane_mask, [=](int lane) {
            part[lane] =
                static_cast<uint32_t>(uint64_t{a[lane]} >> (part_bits * index) & low_bits(part_bits));
        });
    }
}

bool is_even_share(unsigned count) { return count == 2 || count == 4 || count == 8; }

}  // namespace

Handler move_handler(Type type) {
    return bytes_of(type) == 8 ? move<uint64_t> : bytes_of(type) >= 2 ? move<uint32_t> : nullptr;
}

Handler pack_handler(const Instruction& in) {
    if (!is_even_share(in.num_sources)) return nullptr;
    return bytes_of(in.type) == 8 ? pack<uint64_t> : bytes_of(in.type) == 4 ? pack<uint32_t> : nullptr;
}

Handler unpack_handler(const Instruction& in) {
    if (!is_even_share(in.num_results)) return nullptr;
    return bytes_of(in.type) == 8 ? unpack<uint64_t> : bytes_of(in.type) == 4 ? unpack<uint32_t> : nullptr;
}

}  // namespace softgpu
