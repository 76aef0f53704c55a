// space_to_depth: the pixels of 2x2 blocks side by side, with the padding of the stem's convolution
// Math      y[n,i,j,(2a+b)*C+c] = x[n,2(i-2)+a,2(j-2)+b,c] inside the image, else 0; 0 from channel 4C on
// Layout    x: NHWC, height x width x channels; y: NHWC, rows x columns x depth
// Mapping   grid-stride loop, 16 bytes of y a thread and turn, of one block: a block's place is found once, its elements by
//           counting on; neighbouring threads write neighbours and read runs of 2C elements
// Cost      no flop; DRAM floor = bytes(x) + bytes(y)
// Numerics  exact
// Requires  fewer than 2^32 elements, and blocks and their vectors below 2^31; rows = ceil(height / 2) + 3, columns alike; depth >= 4C and a
//           multiple of 16 / sizeof(T), y aligned to 16 bytes; grid.x >= 1
// Reference SpaceToDepth in src/ops/stem.rs
#include "divisor.cuh"
#include "elementwise.cuh"

struct SpaceToDepthArgs {
    const void* x;
    void* y;
    uint64_t num_elems;
    uint32_t height, width, channels;
    Divisor rows, columns, vecs;  // vecs: of 16 bytes, of a block
};

template <class T>
static __device__ void space_to_depth(const SpaceToDepthArgs& a) {
    constexpr int kWidth = kVecElems<T>;
    const uint32_t run = 2 * a.channels;
    for (uint64_t i = grid_thread(); i < a.num_elems / kWidth; i += grid_threads()) {
        const uint32_t vec = static_cast<uint32_t>(i), block = quotient(vec, a.vecs);
        const uint32_t at = (vec - block * a.vecs.divisor) * kWidth;
        const uint32_t block_row = quotient(block, a.columns), column = block - block_row * a.columns.divisor;
        const uint32_t image = quotient(block_row, a.rows), row = block_row - image * a.rows.divisor;
        // Before the image these wrap around, beyond every extent.
        const uint32_t h = 2 * row - 4, w = 2 * column - 4;
        // The block's two runs of x, counted such that element `at` of the block is element `at` of either.
        const int64_t pixel = (int64_t{image} * a.height + static_cast<int32_t>(h)) * a.width + static_cast<int32_t>(w);
        const int64_t upper = pixel * a.channels, lower = upper + int64_t{a.width} * a.channels - run;
        Vec<T, kWidth> y;
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            const bool is_lower = at + k >= run;
            const uint32_t in_run = is_lower ? at + k - run : at + k;
            const bool is_right = in_run >= a.channels;
            y[k] = T(0.0f);
            // With && the compiler branches, and one load waits for the other.
            const bool is_inside = (in_run < run) & (h + is_lower < a.height) & (w + is_right < a.width);
            if (is_inside) y[k] = static_cast<const T*>(a.x)[(is_lower ? lower : upper) + at + k];
        }
        store_vec(static_cast<T*>(a.y) + i * kWidth, y);
    }
}

KERNEL(space_to_depth_f32, SpaceToDepthArgs, 256) { space_to_depth<float>(args); }
KERNEL(space_to_depth_bf16, SpaceToDepthArgs, 256) { space_to_depth<bf16>(args); }
