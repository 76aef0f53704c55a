// stem_filter_bwd: the gradient of the 7x7 filter of the stem from that of the 4x4 filter over blocks of 2x2 pixels
// Math      dw[k,r,s,c] = dv[k,(r+1)/2,(s+1)/2,(2((r+1)%2)+(s+1)%2)*C+c]
// Layout    dw: KRSC, 7 x 7 x channels; dv: KRSC, 4 x 4 x depth; f32
// Mapping   grid-stride loop, an element of dw a thread and turn
// Cost      no flop; DRAM floor = bytes(from) + bytes(to)
// Numerics  exact
// Requires  fewer than 2^32 elements; grid.x >= 1
// Reference StemFilterBwd in src/ops/stem.rs
#include "stem_filter.cuh"

KERNEL(stem_filter_bwd, StemFilterArgs, 256) {
    const float* dv = static_cast<const float*>(args.from);
    float* dw = static_cast<float*>(args.to);
    for (uint64_t i = grid_thread(); i < args.num_elems; i += grid_threads()) {
        const uint32_t tap = static_cast<uint32_t>(i) / args.channels;
        const uint32_t channel = static_cast<uint32_t>(i) - tap * args.channels;
        const uint32_t k = tap / (kPixelTaps * kPixelTaps);
        const uint32_t r = tap / kPixelTaps % kPixelTaps + 1, s = tap % kPixelTaps + 1;
        const uint64_t block = (uint64_t{k} * kBlockTaps + r / 2) * kBlockTaps + s / 2;
        dw[i] = dv[block * args.depth + (2 * (r % 2) + s % 2) * args.channels + channel];
    }
}
