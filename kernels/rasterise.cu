// rasterise: which polygons cover each pixel of a sample
// Math      (x, y) = the sample's inverse affine map of the pixel; a polygon covers the pixel if a ray from (x, y) to the
//           right crosses an odd number of its edges, each edge counted with its upper end and without its lower one.
//           masks: y[n,p,k] = 1 if any polygon of class k covers pixel p; codes: y[n,p,:] = the code of the last that does
// Layout    params f32 [N, stride], the first six of a row being the map; points f32 [Q,2]; objects i32 [M,4] = (sample,
//           class, first point, number of points), sorted by sample, unused rows (sample -1) last; y NHWC
// Mapping   block -> 256 pixels of a sample, which are neighbours in y. A thread finds what covers its pixel and leaves
//           that in shared memory (masks: a bit a class; codes: a word), then the block writes 16 bytes a thread and turn.
//           Blocks without polygons write zeros at once
// Smem      masks: 32 bytes per 256 classes and pixel; codes: 4 bytes a pixel
// Cost      no flop; DRAM floor = bytes(y). Besides, 9 flop per pixel and edge of a sample with objects: nearly all have none
// Numerics  each product and sum is rounded on its own, as on the CPU: both give the same bits
// Requires  y aligned to 16 bytes; is_wide only if H*W*C is a multiple of 16 / sizeof(T); classes below num_classes; fewer
//           than 2^31 pixels a sample, 2^23 channels and 2^29 objects; grid.x = samples * ceil(H*W / 256)
// Reference Rasterise::cpu in src/ops/rasterise.rs
#include "elementwise.cuh"

struct RasteriseArgs {
    const float* params;
    const float* points;
    const int32_t* objects;
    void* y;
    uint32_t num_objects, params_stride, width, pixels;
    uint32_t channels, is_wide;
};

// Pixels of a block, one a thread.
FOR_RUST constexpr uint32_t kPixels = 256;
// Classes whose bits a word of shared memory holds.
FOR_RUST constexpr uint32_t kWordBits = 32;
// Symbols of the alphabet of codes: a prime, so that a line over it has one solution for every value.
FOR_RUST constexpr uint32_t kSymbols = 17;
// Numbers in a row of objects.
FOR_RUST constexpr uint32_t kObjectElems = 4;

static __device__ __forceinline__ float difference(float a, float b) { return __fadd_rn(a, -b); }

// The first object whose sample is not below `sample`. Read as unsigned, the -1 of unused rows is the largest.
static __device__ uint32_t first_object(const RasteriseArgs& a, uint32_t sample) {
    uint32_t low = 0, high = a.num_objects;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (static_cast<uint32_t>(a.objects[middle * kObjectElems]) < sample) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Where output pixel (column, row) lies in the source, along the axis of these coefficients.
static __device__ __forceinline__ float mapped(const float* axis, float column, float row) {
    return __fadd_rn(__fadd_rn(__fmul_rn(axis[0], column), __fmul_rn(axis[1], row)), axis[2]);
}

static __device__ bool covers(const float* points, int32_t num_points, float x, float y) {
    const float* previous = points + 2 * (num_points - 1);
    bool is_inside = false;
    for (int32_t i = 0; i < num_points; i++) {
        const float* point = points + 2 * i;
        const bool is_descending = previous[1] <= point[1];
        const float* upper = is_descending ? previous : point;
        const float* lower = is_descending ? point : previous;
        if (upper[1] <= y && y < lower[1]) {
            const float to_edge = __fmul_rn(difference(lower[0], upper[0]), difference(y, upper[1]));
            const float to_pixel = __fmul_rn(difference(x, upper[0]), difference(lower[1], upper[1]));
            is_inside ^= to_pixel < to_edge;
        }
        previous = point;
    }
    return is_inside;
}

// A bit for each class that covers the pixel.
struct Masks {
    uint32_t* words;  // [words of a pixel][kPixels]
    uint32_t num_words;

    __device__ explicit Masks(const RasteriseArgs& a)
        : words(dynamic_shared<uint32_t>()), num_words(ceil_div(a.channels, kWordBits)) {}

    __device__ void clear(uint32_t pixel) {
        for (uint32_t w = 0; w < num_words; w++) words[w * kPixels + pixel] = 0;
    }
    __device__ void cover(uint32_t pixel, uint32_t object_class) {
        words[object_class / kWordBits * kPixels + pixel] |= 1u << object_class % kWordBits;
    }
    __device__ float value(uint32_t pixel, uint32_t channel) const {
        return static_cast<float>(words[channel / kWordBits * kPixels + pixel] >> channel % kWordBits & 1u);
    }
};

// The word of the last object that covers the pixel, 0 where there is none.
struct Codes {
    uint32_t* words;  // [kPixels]

    __device__ explicit Codes(const RasteriseArgs&) : words(dynamic_shared<uint32_t>()) {}

    __device__ void clear(uint32_t pixel) { words[pixel] = 0; }
    __device__ void cover(uint32_t pixel, uint32_t object_class) { words[pixel] = object_class + 1; }
    // src/ops/codes.rs says what the channels of a word are.
    __device__ float value(uint32_t pixel, uint32_t channel) const {
        const uint32_t a = words[pixel] / kSymbols, b = words[pixel] % kSymbols;
        const uint32_t symbol = channel == kSymbols ? b : (a + b * channel) % kSymbols;
        const int balanced = static_cast<int>(symbol) - (symbol > kSymbols / 2 ? static_cast<int>(kSymbols) : 0);
        return static_cast<float>(balanced) * (1.0f / (kSymbols / 2));
    }
};

template <class T, int kWidth, class Paint>
static __device__ void write_tile(const Paint& paint, T* tile, uint32_t num_elems, uint32_t channels) {
    for (uint32_t at = threadIdx.x * kWidth; at < num_elems; at += blockDim.x * kWidth) {
        uint32_t pixel = at / channels, channel = at - pixel * channels;
        Vec<T, kWidth> vec;
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            vec[i] = T(paint.value(pixel, channel));
            channel++;
            if (channel == channels) {
                channel = 0;
                pixel++;
            }
        }
        store_vec(tile + at, vec);
    }
}

template <class T, int kWidth>
static __device__ void write_zeros(T* tile, uint32_t num_elems) {
    Vec<T, kWidth> zeros;
#pragma unroll
    for (int i = 0; i < kWidth; i++) zeros[i] = T(0.0f);
    for (uint32_t at = threadIdx.x * kWidth; at < num_elems; at += blockDim.x * kWidth) store_vec(tile + at, zeros);
}

template <class T, int kWidth, class Paint>
static __device__ void rasterise_tile(const RasteriseArgs& a) {
    const uint32_t tiles = ceil_div(a.pixels, kPixels);
    const uint32_t sample = blockIdx.x / tiles, first_pixel = (blockIdx.x - sample * tiles) * kPixels;
    const uint32_t num_pixels = min(kPixels, a.pixels - first_pixel);
    const uint32_t num_elems = num_pixels * a.channels;
    T* tile = static_cast<T*>(a.y) + (uint64_t{sample} * a.pixels + first_pixel) * a.channels;

    const uint32_t first = first_object(a, sample), end = first_object(a, sample + 1);
    if (first == end) {  // the same in every thread of the block
        write_zeros<T, kWidth>(tile, num_elems);
        return;
    }
    Paint paint(a);
    if (threadIdx.x < num_pixels) {
        const uint32_t pixel = first_pixel + threadIdx.x;
        const float row = static_cast<float>(pixel / a.width), column = static_cast<float>(pixel % a.width);
        const float* map = a.params + uint64_t{sample} * a.params_stride;
        const float x = mapped(map, column, row), y = mapped(map + 3, column, row);
        paint.clear(threadIdx.x);
        for (uint32_t i = first; i < end; i++) {
            const int32_t* object = a.objects + i * kObjectElems;
            if (covers(a.points + int64_t{2} * object[2], object[3], x, y)) {
                paint.cover(threadIdx.x, static_cast<uint32_t>(object[1]));
            }
        }
    }
    __syncthreads();
    write_tile<T, kWidth>(paint, tile, num_elems, a.channels);
}

template <class T, class Paint>
static __device__ void rasterise(const RasteriseArgs& a) {
    if (a.is_wide) {
        rasterise_tile<T, kVecElems<T>, Paint>(a);
    } else {
        rasterise_tile<T, 1, Paint>(a);
    }
}

KERNEL(rasterise_masks_f32, RasteriseArgs, 256) { rasterise<float, Masks>(args); }
KERNEL(rasterise_masks_bf16, RasteriseArgs, 256) { rasterise<bf16, Masks>(args); }
KERNEL(rasterise_codes_f32, RasteriseArgs, 256) { rasterise<float, Codes>(args); }
KERNEL(rasterise_codes_bf16, RasteriseArgs, 256) { rasterise<bf16, Codes>(args); }
