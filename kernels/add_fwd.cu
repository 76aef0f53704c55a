// add_fwd: the residual add
// Math      y[i] = a[i] + b[i]
// Layout    a, b, y: num_elems elements of any shape; y may lie over a
// Mapping   grid-stride loop, 16 bytes a thread, operand and turn; the last few elements one by one
// Cost      1 flop per element of y; DRAM floor = bytes(a) + bytes(b) + bytes(y)
// Numerics  one addition in f32, rounded once to the type of y
// Requires  a, b and y aligned to 16 bytes; grid.x >= 1
// Reference Add in src/ops/add.rs
#include "elementwise.cuh"

struct AddFwdArgs {
    const void* a;
    const void* b;
    void* y;
    uint64_t num_elems;
};

template <class T>
static __device__ void add_fwd(const AddFwdArgs& args) {
    const T* a = static_cast<const T*>(args.a);
    const T* b = static_cast<const T*>(args.b);
    T* y = static_cast<T*>(args.y);
    for_each_vec<kVecElems<T>>(args.num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<T, kWidth> sum = load_vec<kWidth>(a + at);
        const Vec<T, kWidth> term = load_vec<kWidth>(b + at);
#pragma unroll
        for (int i = 0; i < kWidth; i++) sum[i] = T(float(sum[i]) + float(term[i]));
        store_vec(y + at, sum);
    });
}

KERNEL(add_fwd_f32, AddFwdArgs, 256) { add_fwd<float>(args); }
KERNEL(add_fwd_bf16, AddFwdArgs, 256) { add_fwd<bf16>(args); }
