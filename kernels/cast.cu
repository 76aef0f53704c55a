// cast: the same numbers in another floating-point type
// Math      y[i] = x[i]
// Layout    x, y: num_elems elements of any shape
// Mapping   grid-stride loop, 8 elements a thread and turn: 16 bytes of bf16, twice 16 bytes of f32; the last few
//           elements one by one
// Cost      no flop; DRAM floor = bytes(x) + bytes(y)
// Numerics  f32 to bf16 rounds to nearest even; bf16 to f32 is exact
// Requires  x and y aligned to 16 bytes; grid.x >= 1
// Reference Cast in src/ops/cast.rs
#include "elementwise.cuh"

struct CastArgs {
    const void* x;
    void* y;
    uint64_t num_elems;
};

// Elements that a thread casts a turn.
FOR_RUST constexpr int kTurnElems = 8;

KERNEL(cast_f32_to_bf16, CastArgs, 256) {
    const float* x = static_cast<const float*>(args.x);
    bf16* y = static_cast<bf16*>(args.y);
    for_each_vec<kTurnElems>(args.num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        float from[kWidth];
        load_floats(from, x + at);
        store_vec(y + at, rounded<bf16>(from));
    });
}

KERNEL(cast_bf16_to_f32, CastArgs, 256) {
    const bf16* x = static_cast<const bf16*>(args.x);
    float* y = static_cast<float*>(args.y);
    for_each_vec<kTurnElems>(args.num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        const Vec<bf16, kWidth> from = load_vec<kWidth>(x + at);
        float to[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; i++) to[i] = float(from[i]);
        store_floats(y + at, to);
    });
}
