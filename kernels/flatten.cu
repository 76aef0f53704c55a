// flatten: an image as one row of features, channel by channel, and back
// Math      fwd: y[n, c*P + p] = x[n,p,c]; bwd: dx[n,p,c] = dy[n, c*P + p], p over the P = H*W pixels
// Layout    x, dx NHWC; y, dy [N, C*P], f32: the order that PyTorch's flatten gives an NCHW image
// Mapping   grid-stride loop over the elements of the image, one a thread and turn: small tensors at the end of a network
// Cost      no flop; DRAM floor = bytes(from) + bytes(to)
// Numerics  fwd exact; bwd rounds once to the type of dx
// Requires  grid.x >= 1
// Reference Flatten and FlattenBwd in src/ops/flatten.rs
#include "common.cuh"

struct FlattenArgs {
    const void* from;
    void* to;
    uint64_t num_elems;
    uint64_t pixels, channels;
};

// The place among the features of element `i` of the image.
static __device__ __forceinline__ uint64_t feature(const FlattenArgs& a, uint64_t i) {
    const uint64_t image_elems = a.pixels * a.channels;
    const uint64_t image = i / image_elems, within = i % image_elems;
    return image * image_elems + within % a.channels * a.pixels + within / a.channels;
}

template <class T>
static __device__ void flatten_fwd(const FlattenArgs& a) {
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        static_cast<float*>(a.to)[feature(a, i)] = float(static_cast<const T*>(a.from)[i]);
    }
}

template <class T>
static __device__ void flatten_bwd(const FlattenArgs& a) {
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        static_cast<T*>(a.to)[i] = T(static_cast<const float*>(a.from)[feature(a, i)]);
    }
}

KERNEL(flatten_fwd_f32, FlattenArgs, 256) { flatten_fwd<float>(args); }
KERNEL(flatten_fwd_bf16, FlattenArgs, 256) { flatten_fwd<bf16>(args); }
KERNEL(flatten_bwd_f32, FlattenArgs, 256) { flatten_bwd<float>(args); }
KERNEL(flatten_bwd_bf16, FlattenArgs, 256) { flatten_bwd<bf16>(args); }
