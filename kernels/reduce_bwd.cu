// reduce_bwd: the gradient of a sum or a mean
// Math      dx[i] = scale * dy
// Layout    dy: one f32; dx: num_elems elements of any shape
// Mapping   grid-stride loop, 16 bytes a thread and turn; the last few elements one by one
// Cost      no flop; DRAM floor = bytes(dx)
// Numerics  one multiplication in f32, one rounding to the type of dx
// Requires  dx aligned to 16 bytes; grid.x >= 1
// Reference ReduceBwd in src/ops/reduce.rs
#include "elementwise.cuh"

struct ReduceBwdArgs {
    const float* dy;
    void* dx;
    uint64_t num_elems;
    double scale;
};

template <class T>
static __device__ void reduce_bwd(const ReduceBwdArgs& a) {
    fill_vecs(static_cast<T*>(a.dx), a.num_elems, T(*a.dy * static_cast<float>(a.scale)));
}

KERNEL(reduce_bwd_f32, ReduceBwdArgs, 256) { reduce_bwd<float>(args); }
KERNEL(reduce_bwd_bf16, ReduceBwdArgs, 256) { reduce_bwd<bf16>(args); }
