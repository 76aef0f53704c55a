// adaptive_avg_pool_bwd: each pixel gathers its share of the gradients of the cells that hold it
// Math      dx[n,h,w,c] = sum of dy[n,p,q,c] / pixels(p,q) over the cells (p,q) that hold (h,w) (adaptive_avg_pool.cuh)
// Layout    dx NHWC; dy NPQC, of dx's type
// Mapping   grid-stride loop over the elements of dx, one a thread and turn
// Cost      2 flop per element of to; DRAM floor = bytes(from) + bytes(to). Pixels of several cells cost more
// Numerics  a gather in order of p, then q: no atomics, the same bits every run; f32, rounded once to the type of dx
// Requires  height * out_height and width * out_width below 2^32; grid.x >= 1
// Reference AdaptiveAvgPoolBwd in src/ops/adaptive_avg_pool.rs
#include "adaptive_avg_pool.cuh"

template <class T>
static __device__ void adaptive_avg_pool_bwd(const AdaptiveAvgPoolArgs& a) {
    const T* dy = static_cast<const T*>(a.from);
    for (uint64_t i = grid_thread(); i < a.num_elems; i += grid_threads()) {
        const uint32_t c = static_cast<uint32_t>(i % a.channels);
        const uint64_t pixel = i / a.channels;
        const uint64_t n = pixel / a.width / a.height;
        const uint32_t h = static_cast<uint32_t>(pixel / a.width % a.height);
        const Cells rows = cells_over(h, a.height, a.out_height);
        const Cells columns = cells_over(static_cast<uint32_t>(pixel % a.width), a.width, a.out_width);
        float sum = 0.0f;
        for (uint32_t p = rows.first; p < rows.end; p++) {
            const Cells in_rows = pixels_of(p, a.height, a.out_height);
            for (uint32_t q = columns.first; q < columns.end; q++) {
                const Cells in_columns = pixels_of(q, a.width, a.out_width);
                const uint32_t count = (in_rows.end - in_rows.first) * (in_columns.end - in_columns.first);
                const uint64_t cell = (n * a.out_height + p) * a.out_width + q;
                sum += float(dy[cell * a.channels + c]) / static_cast<float>(count);
            }
        }
        static_cast<T*>(a.to)[i] = T(sum);
    }
}

KERNEL(adaptive_avg_pool_bwd_f32, AdaptiveAvgPoolArgs, 256) { adaptive_avg_pool_bwd<float>(args); }
KERNEL(adaptive_avg_pool_bwd_bf16, AdaptiveAvgPoolArgs, 256) { adaptive_avg_pool_bwd<bf16>(args); }
