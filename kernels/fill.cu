// fill: y = value, everywhere
// Math      y[i] = value
// Layout    y: num_elems elements of any shape
// Mapping   grid-stride loop, 16 bytes a thread and turn; the last few elements one by one
// Cost      no flop; DRAM floor = bytes(y)
// Numerics  one rounding to the type of y
// Requires  y aligned to 16 bytes; grid.x >= 1
// Reference Fill in src/ops/reduce.rs
#include "elementwise.cuh"

struct FillArgs {
    void* y;
    uint64_t num_elems;
    float value;
    uint32_t reserved;  // keeps the struct free of padding
};
KERNEL_ARGS(FillArgs, y, num_elems, value, reserved)

template <class T>
static __device__ void fill(const FillArgs& a) {
    fill_vecs(static_cast<T*>(a.y), a.num_elems, T(a.value));
}

KERNEL(fill_f32, FillArgs, 256) { fill<float>(args); }
KERNEL(fill_bf16, FillArgs, 256) { fill<bf16>(args); }
