// space_to_depth: the pixels of 2x2 blocks side by side, with the padding of the stem's convolution
// Math      y[n,i,j,(2a+b)*C+c] = x[n,2(i-2)+a,2(j-2)+b,c] inside the image, else 0; 0 from channel 4C on
// Layout    x: NHWC, height x width x channels; y: NHWC, rows x columns x depth
// Mapping   grid-stride loop, an element of y a thread and turn: neighbouring threads write neighbours and read runs of
//           2C elements
// Cost      no flop; DRAM floor = bytes(x) + bytes(y)
// Numerics  exact
// Requires  fewer than 2^32 elements; rows = ceil(height / 2) + 3, columns alike; depth >= 4C; grid.x >= 1
// Reference SpaceToDepth in src/ops/stem.rs
#include "common.cuh"

struct SpaceToDepthArgs {
    const void* x;
    void* y;
    uint64_t num_elems;
    uint32_t height, width, channels, rows, columns, depth;
};

template <class T>
static __device__ void space_to_depth(const SpaceToDepthArgs& a) {
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        const uint32_t block = static_cast<uint32_t>(i) / a.depth, at = static_cast<uint32_t>(i) - block * a.depth;
        const uint32_t block_row = block / a.columns, column = block - block_row * a.columns;
        const uint32_t image = block_row / a.rows, row = block_row - image * a.rows;
        const uint32_t pixel = at / a.channels, channel = at - pixel * a.channels;
        // Before the image these wrap around, beyond every extent.
        const uint32_t h = 2 * row + pixel / 2 - 4, w = 2 * column + pixel % 2 - 4;
        T value = T(0.0f);
        if (pixel < 4 && h < a.height && w < a.width) {
            value = x[((uint64_t{image} * a.height + h) * a.width + w) * a.channels + channel];
        }
        y[i] = value;
    }
}

KERNEL(space_to_depth_f32, SpaceToDepthArgs, 256) { space_to_depth<float>(args); }
KERNEL(space_to_depth_bf16, SpaceToDepthArgs, 256) { space_to_depth<bf16>(args); }
