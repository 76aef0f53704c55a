// adaptive_avg_pool_fwd: the mean of each channel over each cell of a grid of fixed size
// Math      y[n,p,q,c] = mean of x[n,h,w,c] over the pixels (h,w) of cell (p,q) (adaptive_avg_pool.cuh)
// Layout    x NHWC; y NPQC, of x's type
// Mapping   grid-stride loop over the elements of y, one a thread and turn: small tensors at the end of a network
// Cost      1 flop per element of from; DRAM floor = bytes(from) + bytes(to)
// Numerics  sums in f32 in order of h, then w; rounded once to the type of y
// Requires  height * out_height and width * out_width below 2^32; grid.x >= 1
// Reference AdaptiveAvgPool in src/ops/adaptive_avg_pool.rs
#include "adaptive_avg_pool.cuh"

template <class T>
static __device__ void adaptive_avg_pool_fwd(const AdaptiveAvgPoolArgs& a) {
    const T* x = static_cast<const T*>(a.from);
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        const uint32_t c = static_cast<uint32_t>(i % a.channels);
        const uint64_t cell = i / a.channels;
        const uint64_t n = cell / a.out_width / a.out_height;
        const Cells columns = pixels_of(static_cast<uint32_t>(cell % a.out_width), a.width, a.out_width);
        const uint32_t p = static_cast<uint32_t>(cell / a.out_width % a.out_height);
        const Cells rows = pixels_of(p, a.height, a.out_height);
        float sum = 0.0f;
        for (uint32_t h = rows.first; h < rows.end; h++) {
            for (uint32_t w = columns.first; w < columns.end; w++) {
                sum += float(x[((n * a.height + h) * a.width + w) * a.channels + c]);
            }
        }
        const uint32_t count = (rows.end - rows.first) * (columns.end - columns.first);
        static_cast<T*>(a.to)[i] = T(sum / static_cast<float>(count));
    }
}

KERNEL(adaptive_avg_pool_fwd_f32, AdaptiveAvgPoolArgs, 256) { adaptive_avg_pool_fwd<float>(args); }
KERNEL(adaptive_avg_pool_fwd_bf16, AdaptiveAvgPoolArgs, 256) { adaptive_avg_pool_fwd<bf16>(args); }
