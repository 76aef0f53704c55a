// dropout: each element is zero with probability p, else divided by 1 - p; forward and backward alike
// Math      y[i] = uniform(i) < p ? 0 : x[i] * scale, scale = 1 / (1 - p)
// Layout    x, y: num_elems elements of any shape, y may lie over x; draws u32 [4]: seed (low, high word), number of the
//           batch, unused
// Mapping   grid-stride loop, four elements a thread and turn: the four words of one Philox counter
//           (i / 4, batch, layer, use) under the seed
// Cost      1 flop per element of y; DRAM floor = bytes(x) + bytes(y)
// Numerics  one multiplication in f32, rounded once to the type of y; the same elements on every device
// Requires  fewer than 2^34 elements; grid.x >= 1
// Reference Dropout in src/ops/dropout.rs
#include "common.cuh"

struct DropoutArgs {
    const void* x;
    void* y;
    const uint32_t* draws;
    uint64_t num_elems;
    uint32_t layer, usage;
    float p, scale;
};

template <class T>
static __device__ void dropout(const DropoutArgs& a) {
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    const uint2 key = make_uint2(a.draws[0], a.draws[1]);
    const uint64_t num_groups = ceil_div<uint64_t>(a.num_elems, 4);
    for (uint64_t group = grid_thread(); group < num_groups; group += grid_threads()) {
        const uint4 counter = make_uint4(static_cast<uint32_t>(group), a.draws[2], a.layer, a.usage);
        const uint4 words = philox4x32_10(counter, key);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint64_t at = group * 4 + i;
            if (at < a.num_elems) y[at] = T(uniform(word[i]) < a.p ? 0.0f : float(x[at]) * a.scale);
        }
    }
}

KERNEL(dropout_f32, DropoutArgs, 256) { dropout<float>(args); }
KERNEL(dropout_bf16, DropoutArgs, 256) { dropout<bf16>(args); }
