// relu_fwd: y = max(x, 0), a NaN staying one
// Math      y[i] = x[i] <= 0 ? 0 : x[i]
// Layout    x, y: num_elems elements of any shape; y may lie over x
// Mapping   grid-stride loop, 16 bytes a thread and turn; the last few elements one by one
// Cost      1 flop per element of y; DRAM floor = bytes(x) + bytes(y)
// Numerics  exact
// Requires  x and y aligned to 16 bytes; grid.x >= 1
// Reference Relu in src/ops/relu.rs
#include "elementwise.cuh"

struct ReluFwdArgs {
    const void* x;
    void* y;
    uint64_t num_elems;
};

template <class T>
static __device__ void relu_fwd(const ReluFwdArgs& a) {
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    for_each_vec<kVecElems<T>>(a.num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<T, kWidth> v = load_vec<kWidth>(x + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) v[i] = float(v[i]) <= 0.0f ? T(0.0f) : v[i];
        store_vec(y + at, v);
    });
}

KERNEL(relu_fwd_f32, ReluFwdArgs, 256) { relu_fwd<float>(args); }
KERNEL(relu_fwd_bf16, ReluFwdArgs, 256) { relu_fwd<bf16>(args); }
