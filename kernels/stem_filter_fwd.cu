// stem_filter_fwd: the 7x7 filter of the stem as a 4x4 filter over blocks of 2x2 pixels
// Math      v[k,t,u,(2a+b)*C+c] = w[k,2t+a-1,2u+b-1,c] inside the filter, else 0; 0 from channel 4C on
// Layout    w: KRSC, 7 x 7 x channels; v: KRSC, 4 x 4 x depth
// Mapping   grid-stride loop, an element of v a thread and turn
// Cost      no flop; DRAM floor = bytes(from) + bytes(to)
// Numerics  exact
// Requires  fewer than 2^32 elements; depth >= 4C; grid.x >= 1
// Reference StemFilter in src/ops/stem.rs
#include "stem_filter.cuh"

template <class T>
static __device__ void stem_filter_fwd(const StemFilterArgs& a) {
    const T* w = static_cast<const T*>(a.from);
    T* v = static_cast<T*>(a.to);
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        const uint32_t tap = static_cast<uint32_t>(i) / a.depth, at = static_cast<uint32_t>(i) - tap * a.depth;
        const uint32_t k = tap / (kBlockTaps * kBlockTaps);
        const uint32_t t = tap / kBlockTaps % kBlockTaps, u = tap % kBlockTaps;
        const uint32_t pixel = at / a.channels, channel = at - pixel * a.channels;
        // Before the filter these wrap around, beyond its extent.
        const uint32_t r = 2 * t + pixel / 2 - 1, s = 2 * u + pixel % 2 - 1;
        T value = T(0.0f);
        if (pixel < 4 && r < kPixelTaps && s < kPixelTaps) {
            value = w[((uint64_t{k} * kPixelTaps + r) * kPixelTaps + s) * a.channels + channel];
        }
        v[i] = value;
    }
}

KERNEL(stem_filter_fwd_f32, StemFilterArgs, 256) { stem_filter_fwd<float>(args); }
KERNEL(stem_filter_fwd_bf16, StemFilterArgs, 256) { stem_filter_fwd<bf16>(args); }
