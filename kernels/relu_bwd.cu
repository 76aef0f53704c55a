// relu_bwd: the gradient of a ReLU, masked by its result
// Math      dx[i] = y[i] <= 0 ? 0 : dy[i]; a y that is not a number lets the gradient through
// Layout    dy, y, dx: num_elems elements of any shape; dx may lie over dy
// Mapping   grid-stride loop, 16 bytes a thread, operand and turn; the last few elements one by one
// Cost      1 flop per element of dx; DRAM floor = bytes(dy) + bytes(y) + bytes(dx)
// Numerics  exact
// Requires  dy, y and dx aligned to 16 bytes; grid.x >= 1
// Reference ReluBwd in src/ops/relu.rs
#include "elementwise.cuh"

struct ReluBwdArgs {
    const void* dy;
    const void* y;
    void* dx;
    uint64_t num_elems;
};

template <class T>
static __device__ void relu_bwd(const ReluBwdArgs& a) {
    const T* dy = static_cast<const T*>(a.dy);
    const T* y = static_cast<const T*>(a.y);
    T* dx = static_cast<T*>(a.dx);
    for_each_vec<kVecElems<T>>(a.num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<T, kWidth> v = load_vec<kWidth>(dy + at);
        const Vec<T, kWidth> mask = load_vec<kWidth>(y + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) v[i] = float(mask[i]) <= 0.0f ? T(0.0f) : v[i];
        store_vec(dx + at, v);
    });
}

KERNEL(relu_bwd_f32, ReluBwdArgs, 256) { relu_bwd<float>(args); }
KERNEL(relu_bwd_bf16, ReluBwdArgs, 256) { relu_bwd<bf16>(args); }
