// Index maps of convolutions, shared by every fprop, dgrad and wgrad kernel: which source pixel and which filter row a
// tap pairs, and how a flat position is taken apart without divisions in the inner loop.
//
// fprop and dgrad are one computation over one pair of axes. With u the output position along an axis and t the tap,
//   out[out_first + u * out_step] = sum_t src[u * src_step + src_first + t] * w[weight_first + t * weight_step]
// and source positions outside 0..src_extent read as zero. A dgrad of stride s falls into s classes of output positions
// (equal remainder by s), each with its own few taps, stepping through its output by s. Together the classes write every
// element of dx exactly once.
#pragma once

#include "common.cuh"

// Extents of one fprop or dgrad. fprop: src = x, out = y. dgrad: src = dy, out = dx. Filters are KRSC in both.
struct Conv2dArgs {
    const void* src;
    const void* weights;
    const void* addend;  // of the shape of out, added to the result; may be out itself; null for none
    void* out;
    int32_t batch;
    int32_t src_h, src_w, src_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_h, pad_w;
    int32_t k_per_split;  // gemm_k positions per blockIdx.z, whose results lie one after the other in out
    // The batch norm that follows an fprop in inference, each of out_c channels; null for none.
    const float* gamma;
    const float* beta;
    const float* mean;
    const float* running_var;
    float eps;
    int32_t relu;  // of what the batch norm and the addend give
    // In training, what a batch norm asks of the results, [block of rows][2][out_c]; null for nothing. An fprop leaves the
    // statistics of its results, as batch_norm_stats.cu. The out of a dgrad is the gradient of a batch norm's result: it is
    // stored behind the mask of the ReLU, and its sums are left, as batch_norm_bwd_sums.cu. The mask is that of
    // relu_mask.cuh, by gamma, beta, mean and rstd, by bits, or none; where it would be by y, batch_norm_bwd_sums.cu itself takes
    // the sums. Where y is the sum of two batch norms, the other one's sum of dz * (x - mean) follows: shortcut_x is not null,
    // the mask is by bits, and partials are [block of rows][3][out_c].
    float* partials;
    const void* x;
    const void* bits;
    const float* rstd;
    const void* shortcut_x;
    const float* shortcut_mean;
};

// The batch norm that follows an fprop, for kCount channels from `col`; channels behind the last repeat it.
template <int kCount>
struct ChannelNorm {
    float mean[kCount], scale[kCount], beta[kCount];
    bool relu;

    __device__ __forceinline__ ChannelNorm(const Conv2dArgs& a, int32_t col) : relu(a.relu != 0) {
#pragma unroll
        for (int i = 0; i < kCount; i++) {
            const int32_t channel = min(col + i, a.out_c - 1);
            mean[i] = a.mean[channel];
            scale[i] = a.gamma[channel] * (1.0f / sqrtf(a.running_var[channel] + a.eps));
            beta[i] = a.beta[channel];
        }
    }

    // As batch_norm_fwd.cu has it.
    __device__ __forceinline__ float operator()(int i, float sum, float addend) const {
        const float y = normalized(sum, mean[i], scale[i], beta[i]) + addend;
        return relu && y <= 0.0f ? 0.0f : y;
    }
};

enum class Pass { kFprop, kDgrad };

struct TapAxis {
    int32_t num_out, out_first, out_step;
    int32_t src_step, src_first;
    int32_t num_taps, weight_first, weight_step;
};

static __device__ __forceinline__ TapAxis fprop_axis(int32_t out_extent, int32_t kernel, int32_t stride, int32_t pad) {
    return {out_extent, 0, 1, stride, -pad, kernel, 0, 1};
}

// The class of output positions h = u * stride + residue. Filter row r meets them where h + pad - r is a multiple of the
// stride: r = first, first + stride, ... Taps run through them downwards, so that source positions ascend.
static __device__ __forceinline__ TapAxis dgrad_axis(int32_t out_extent, int32_t kernel, int32_t stride, int32_t pad,
                                                     int32_t residue) {
    const int32_t first = (residue + pad) % stride;
    const int32_t taps = first < kernel ? ceil_div(kernel - first, stride) : 0;
    const int32_t positions = ceil_div(out_extent - residue, stride);
    return {positions, residue, stride, 1, (residue + pad) / stride - (taps - 1), taps, first + (taps - 1) * stride,
            -stride};
}

struct TapPlane {
    TapAxis h, w;

    __device__ __forceinline__ int32_t num_out() const { return h.num_out * w.num_out; }
    __device__ __forceinline__ int32_t num_taps() const { return h.num_taps * w.num_taps; }
    // Whether the positions of the class are all positions, in order.
    __device__ __forceinline__ bool is_dense() const { return h.out_step == 1 && w.out_step == 1; }
};

// Calls `write(finish)` with what makes a result of a sum and the addend, in channels `col` to `col + kCount - 1`.
template <Pass kPass, int kCount, class Write>
static __device__ __forceinline__ void finish_sums(const Conv2dArgs& a, int32_t col, const Write& write) {
    if constexpr (kPass == Pass::kFprop) {
        if (a.gamma != nullptr) return write(ChannelNorm<kCount>(a, col));
    }
    write([](int, float sum, float addend) { return addend + sum; });
}

template <Pass kPass>
static __device__ __forceinline__ TapPlane tap_plane(const Conv2dArgs& a, int32_t output_class) {
    if (kPass == Pass::kFprop) {
        return {fprop_axis(a.out_h, a.kernel_h, a.stride_h, a.pad_h),
                fprop_axis(a.out_w, a.kernel_w, a.stride_w, a.pad_w)};
    }
    return {dgrad_axis(a.out_h, a.kernel_h, a.stride_h, a.pad_h, output_class / a.stride_w),
            dgrad_axis(a.out_w, a.kernel_w, a.stride_w, a.pad_w, output_class % a.stride_w)};
}

// A flat position as a coordinate along three extents, hi unbounded. Adding the coordinate of a step, with carries, walks it without division.
struct Extents {
    int32_t lo, mid;
};

struct Coord {
    int32_t lo, mid, hi;
};

static __device__ __forceinline__ Coord coord_of(int32_t position, Extents extents) {
    const int32_t rest = position / extents.lo;
    return {position % extents.lo, rest % extents.mid, rest / extents.mid};
}

static __device__ __forceinline__ void advance(Coord& coord, const Coord& step, Extents extents) {
    coord.lo += step.lo;
    coord.mid += step.mid;
    coord.hi += step.hi;
    if (coord.lo >= extents.lo) {
        coord.lo -= extents.lo;
        coord.mid++;
    }
    if (coord.mid >= extents.mid) {
        coord.mid -= extents.mid;
        coord.hi++;
    }
}

// The taps' flat position: channel, tap column, tap row. A class without taps has no positions; its extents must not be 0.
static __device__ __forceinline__ Extents tap_extents(const TapPlane& plane, int32_t channels) {
    return {channels, max(plane.w.num_taps, 1)};
}

// An output position's flat position: column, row, image.
static __device__ __forceinline__ Extents pixel_extents(const TapPlane& plane) { return {plane.w.num_out, plane.h.num_out}; }

// A coordinate from which no tap reaches the source: the row of a tile after the last output position.
constexpr int32_t kOutside = -(1 << 30);

static __device__ __forceinline__ bool within(int32_t position, int32_t extent) {
    return static_cast<uint32_t>(position) < static_cast<uint32_t>(extent);
}

// Where the output position `row` of a class lies in out, in elements, channel 0.
static __device__ __forceinline__ int64_t out_offset(const Conv2dArgs& a, const TapPlane& plane, int32_t row) {
    if (plane.is_dense()) return static_cast<int64_t>(row) * a.out_c;
    const Coord pixel = coord_of(row, pixel_extents(plane));
    const int32_t h = plane.h.out_first + pixel.mid * plane.h.out_step;
    const int32_t w = plane.w.out_first + pixel.lo * plane.w.out_step;
    return ((static_cast<int64_t>(pixel.hi) * a.out_h + h) * a.out_w + w) * a.out_c;
}
