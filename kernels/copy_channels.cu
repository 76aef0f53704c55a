// copy_channels: some channels of every row to some channels of every row of another tensor: concatenation and slices
// Math      to[row, to_first + i] = from[row, from_first + i] for i < len
// Layout    from, to: rows of from_stride and of to_stride words
// Mapping   grid-stride loop over the words copied; a word is 16 bytes where strides, firsts and len are all multiples of
//           that, else 4 or 2, whatever the elements are
// Cost      no flop; DRAM floor = 2 * min(bytes(from), bytes(to))
// Numerics  exact
// Requires  from and to aligned to a word; fewer than 2^32 words copied; grid.x >= 1
// Reference copy_channels in src/ops/concat.rs
#include "elementwise.cuh"

struct CopyChannelsArgs {
    const void* from;
    void* to;
    uint32_t rows, len, from_stride, from_first, to_stride, to_first;
};

template <class Word>
static __device__ void copy_channels(const CopyChannelsArgs& a) {
    const Word* from = static_cast<const Word*>(a.from) + a.from_first;
    Word* to = static_cast<Word*>(a.to) + a.to_first;
    const uint64_t num_words = uint64_t{a.rows} * a.len;
    for (uint64_t i = grid_thread(); i < num_words; i += grid_threads()) {
        const uint32_t row = static_cast<uint32_t>(i) / a.len;
        const uint32_t word = static_cast<uint32_t>(i) - row * a.len;
        to[uint64_t{row} * a.to_stride + word] = from[uint64_t{row} * a.from_stride + word];
    }
}

KERNEL(copy_channels_16_bytes, CopyChannelsArgs, 256) { copy_channels<uint4>(args); }
KERNEL(copy_channels_4_bytes, CopyChannelsArgs, 256) { copy_channels<uint32_t>(args); }
KERNEL(copy_channels_2_bytes, CopyChannelsArgs, 256) { copy_channels<uint16_t>(args); }
