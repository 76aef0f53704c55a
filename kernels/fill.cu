// fill: y = value, everywhere
// Math      y[i] = value
// Layout    y: num_elems f32 of any shape
// Mapping   grid-stride loop, 16 bytes a thread and turn; the last few elements one by one
// Cost      no flop; DRAM floor = bytes(y)
// Numerics  exact
// Requires  y aligned to 16 bytes; grid.x >= 1
// Reference Fill in src/ops/reduce.rs
#include "elementwise.cuh"

struct FillArgs {
    void* y;
    uint64_t num_elems;
    float value;
    uint32_t reserved;  // keeps the struct free of padding
};

KERNEL(fill_f32, FillArgs, 256) { fill_vecs(static_cast<float*>(args.y), args.num_elems, args.value); }
