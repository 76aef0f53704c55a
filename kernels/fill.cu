// fill: y = value, everywhere
// Layout    y: num_elems elements of any shape
// Mapping   one thread per element; the last block is partly idle
// Cost      no flop; DRAM floor = bytes(y)
// Requires  grid.x = ceil(num_elems / 256)
// Numerics  exact
// Reference Fill in src/ops/reduce.rs
#include "common.cuh"

struct FillArgs {
    void* y;
    uint64_t num_elems;
    float value;
    uint32_t reserved;  // keeps the struct free of padding
};
KERNEL_ARGS(FillArgs, y, num_elems, value, reserved)

template <class T>
static __device__ void fill(const FillArgs& a) {
    const uint64_t i = grid_thread();
    if (i < a.num_elems) static_cast<T*>(a.y)[i] = T(a.value);
}

KERNEL(fill_f32, FillArgs, 256) { fill<float>(args); }
