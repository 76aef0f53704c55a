// augment: from the pixels of photos to the network's input, through what happens to each sample
// Math      place = inverse(x, y); value = bilinear(pixels[rows[n]], place), black outside; value = clamp(colour * value);
//           a pixel drawn by noise takes a random colour; y = value * scale + offset, 0 in the erased box;
//           inside the box of mix, y = y * weight + (1 - weight) * y of the partner
// Layout    pixels u8 M,H,W,3; rows i32 N, -1 is padding; params N rows of SampleParams; y N,H,W,3, or in augment_blocks
//           N,ceil(H/2)+3,ceil(W/2)+3,16: what space_to_depth.cu makes of such images
// Mapping   grid.y -> sample; thread -> 4 neighbouring pixels, whose 12 values leave in vectors, or 1 pixel where H*W is
//           no multiple of 4; in augment_blocks the 4 pixels of a block of 2x2, or a block of padding
// Cost      60*height*width flop per element of rows; DRAM floor = 3*height*width bytes of pixels per element of rows +
//           bytes(y). Taps of neighbouring pixels meet in the cache; where samples mix, both photos are read
// Numerics  places bit for bit as on the CPU (no contraction), values to rounding; noise is Philox of (pixel, epoch,
//           image, use) under the seed, the same numbers as on the CPU
// Requires  pixels aligned to 4 bytes, y to 16; rows below M; partners below N; H*W below 2^31; width 4 only if H*W is a
//           multiple of 4; grid.y = N
// Reference AugmentFwd and AugmentBlocks in src/ops/augment.rs, SampleParams in src/transform/mod.rs
#include "augment.cuh"
#include "elementwise.cuh"

struct AugmentArgs {
    const uint8_t* pixels;
    const int32_t* rows;
    const void* params;
    void* y;
    uint32_t height;
    uint32_t width;
    uint32_t is_wide;
    uint32_t noise_use;
    float scale[3];
    float offset[3];
};

// Pixels of a thread where the image can be cut into such groups.
FOR_RUST constexpr uint32_t kWidePixels = 4;

// The colour of a photo at (x, y), in 0..255.
static __device__ __forceinline__ void bilinear(const uint8_t* photo, int height, int width, float x, float y,
                                                float (&value)[3]) {
    // Keeps the conversions below in range; that far out everything is black.
    x = fminf(fmaxf(x, -1.0f), static_cast<float>(width));
    y = fminf(fmaxf(y, -1.0f), static_cast<float>(height));
    const float x0 = floorf(x), y0 = floorf(y);
    const int left = static_cast<int>(x0), top = static_cast<int>(y0);
    const float right_share = x - x0, bottom_share = y - y0;
    float taps[2][2][3];
#pragma unroll
    for (int dy = 0; dy < 2; dy++) {
#pragma unroll
        for (int dx = 0; dx < 2; dx++) {
            const int column = left + dx, row = top + dy;
            const bool inside = column >= 0 && row >= 0 && column < width && row < height;
            const int64_t at = (static_cast<int64_t>(row) * width + column) * 3;
#pragma unroll
            for (int c = 0; c < 3; c++) taps[dy][dx][c] = inside ? static_cast<float>(__ldg(photo + at + c)) : 0.0f;
        }
    }
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float upper = taps[0][0][c] + (taps[0][1][c] - taps[0][0][c]) * right_share;
        const float lower = taps[1][0][c] + (taps[1][1][c] - taps[1][0][c]) * right_share;
        value[c] = upper + (lower - upper) * bottom_share;
    }
}

// Whether a box holds the pixel (x, y).
static __device__ __forceinline__ bool in_box(int left, int top, int right, int bottom, uint32_t x, uint32_t y) {
    const int column = static_cast<int>(x), line = static_cast<int>(y);
    return column >= left && column < right && line >= top && line < bottom;
}

// The network's input at pixel (x, y) of sample n, before mixing; zero for padding.
static __device__ __forceinline__ void sample_pixel(const AugmentArgs& a, int n, uint32_t x, uint32_t y,
                                                    float (&value)[3]) {
    const int64_t row = a.rows[n];
    if (row < 0) {
        value[0] = value[1] = value[2] = 0.0f;
        return;
    }
    const SampleParams& p = static_cast<const SampleParams*>(a.params)[n];
    if (in_box(p.erased_left, p.erased_top, p.erased_right, p.erased_bottom, x, y)) {
        value[0] = value[1] = value[2] = 0.0f;
        return;
    }
    const float column = static_cast<float>(x), line = static_cast<float>(y);
    float rgb[3];
    bilinear(a.pixels + row * a.height * a.width * 3, static_cast<int>(a.height), static_cast<int>(a.width),
             place(p.inverse_x, column, line), place(p.inverse_y, column, line), rgb);
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float(&of)[4] = p.colour[c];
        value[c] = fminf(fmaxf(of[0] * rgb[0] + of[1] * rgb[1] + of[2] * rgb[2] + of[3], 0.0f), 255.0f);
    }
    if (p.noise_probability > 0.0f) {
        const uint4 counter = make_uint4(y * a.width + x, p.noise_epoch, p.noise_sample, a.noise_use);
        const uint4 words = philox4x32_10(counter, make_uint2(p.noise_key[0], p.noise_key[1]));
        if (uniform(words.x) < p.noise_probability) {
#pragma unroll
            for (int c = 0; c < 3; c++) value[c] = static_cast<float>((words.y >> (8 * c)) & 0xffu);
        }
    }
#pragma unroll
    for (int c = 0; c < 3; c++) value[c] = value[c] * a.scale[c] + a.offset[c];
}

// The input at pixel (x, y) of sample n with what shows through of its partner.
static __device__ __forceinline__ void mixed_pixel(const AugmentArgs& a, int n, uint32_t x, uint32_t y,
                                                   float (&value)[3]) {
    sample_pixel(a, n, x, y, value);
    if (a.rows[n] < 0) return;
    const SampleParams& p = static_cast<const SampleParams*>(a.params)[n];
    if (!(p.weight < 1.0f) || !in_box(p.left, p.top, p.right, p.bottom, x, y)) return;
    float other[3];
    sample_pixel(a, p.partner, x, y, other);
#pragma unroll
    for (int c = 0; c < 3; c++) value[c] = value[c] * p.weight + other[c] * (1.0f - p.weight);
}

template <class T, int kWidth>
static __device__ void augment_pixels(const AugmentArgs& a) {
    const uint32_t num_pixels = a.height * a.width;
    const uint32_t first = static_cast<uint32_t>(grid_thread()) * kWidth;
    if (first >= num_pixels) return;
    float values[3 * kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; i++) {
        const uint32_t y = (first + i) / a.width, x = first + i - y * a.width;
        float value[3];
        mixed_pixel(a, static_cast<int>(blockIdx.y), x, y, value);
#pragma unroll
        for (int c = 0; c < 3; c++) values[3 * i + c] = value[c];
    }
    T* to = static_cast<T*>(a.y) + (static_cast<uint64_t>(blockIdx.y) * num_pixels + first) * 3;
    // The values of a group of pixels are three vectors: of 16 bytes in f32, of 8 in bf16.
    store_rounded<kWidth>(to, values);
}

// A block of 2x2 pixels, with the padding of the stem's convolution: two rows and columns of blocks before the image, one behind.
template <class T>
static __device__ void augment_block(const AugmentArgs& a) {
    const uint32_t rows = (a.height + 1) / 2 + 3, columns = (a.width + 1) / 2 + 3;
    const uint32_t block = static_cast<uint32_t>(grid_thread());
    if (block >= rows * columns) return;
    const uint32_t row = block / columns, column = block - row * columns;
    float values[16] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // Before the image these wrap around, beyond every extent.
        const uint32_t y = 2 * row + i / 2 - 4, x = 2 * column + i % 2 - 4;
        if (y >= a.height || x >= a.width) continue;
        float value[3];
        mixed_pixel(a, static_cast<int>(blockIdx.y), x, y, value);
#pragma unroll
        for (int c = 0; c < 3; c++) values[3 * i + c] = value[c];
    }
    constexpr int kWidth = kVecElems<T>;
    T* to = static_cast<T*>(a.y) + (uint64_t{blockIdx.y} * rows * columns + block) * 16;
    store_rounded<kWidth>(to, values);
}

template <class T>
static __device__ void augment(const AugmentArgs& a) {
    if (a.is_wide) {
        augment_pixels<T, kWidePixels>(a);
    } else {
        augment_pixels<T, 1>(a);
    }
}

KERNEL(augment_f32, AugmentArgs, 256) { augment<float>(args); }
KERNEL(augment_bf16, AugmentArgs, 256) { augment<bf16>(args); }
KERNEL(augment_blocks_f32, AugmentArgs, 256) { augment_block<float>(args); }
KERNEL(augment_blocks_bf16, AugmentArgs, 256) { augment_block<bf16>(args); }
