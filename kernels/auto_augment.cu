// auto_augment: photos changed byte by byte, each by the operations that it drew, in one launch
// Math      bytes = round(clamp(colour * bilinear(pixels[rows[n]], inverse(x, y)))), with noise; then for each step of the sample
//           bytes = bytes at the nearest pixel of a map, black outside; or a table of 256 values for each channel, made of
//           the image's mean grey, extremes or histogram; or cut(bytes * factor + rest * grey or smoothed)
// Layout    pixels u8 M,H,W,3; rows i32 N, -1 is padding; params N rows of SampleParams; steps N rows of AutoSteps;
//           photos u8 N,H,W,3, zero in padding; spare as photos; own_rows i32 N: n, or -1 in padding; own_params: params without
//           what has been done
// Mapping   block -> sample, through all of its steps; thread -> every 512th pixel. Tables are changed in place; what reads other pixels
//           goes from photos to spare or back
// Cost      20 flop per element of photos; DRAM floor = 1 byte of pixels per element of photos + bytes(photos). Steps find
//           the image in the caches
// Numerics  every rounding is written down, integers elsewhere: the same bytes as on the CPU, whatever the order of threads
// Requires  rows below M; H*W*255 below 2^32; extents below 2^22; no more moving steps than kMaxAutoSteps; grid.x = N
// Reference AutoAugment in src/ops/auto_augment.rs, AutoSteps::run in src/transform/auto/bytes.rs
#include "augment.cuh"

struct AutoAugmentArgs {
    const uint8_t* pixels;
    const int32_t* rows;
    const void* params;
    const void* steps;
    uint8_t* photos;
    int32_t* own_rows;
    void* own_params;
    uint8_t* spare;
    uint32_t height;
    uint32_t width;
    uint32_t num_pixels;
    uint32_t noise_use;
};

// A step that takes pixels from elsewhere. A kind that is none of these does nothing.
FOR_RUST constexpr uint32_t kMap = 1;
// Blended with black.
FOR_RUST constexpr uint32_t kBrightness = 2;
// Blended with the mean grey.
FOR_RUST constexpr uint32_t kContrast = 3;
// Some bits are dropped.
FOR_RUST constexpr uint32_t kPosterize = 4;
// High values are turned round.
FOR_RUST constexpr uint32_t kSolarize = 5;
// Channels are stretched.
FOR_RUST constexpr uint32_t kAutoContrast = 6;
// Histograms are flattened.
FOR_RUST constexpr uint32_t kEqualize = 7;
// Blended with each pixel's grey.
FOR_RUST constexpr uint32_t kColor = 8;
// Blended with the smoothed image.
FOR_RUST constexpr uint32_t kSharpness = 9;

// Steps of a sample.
FOR_RUST constexpr int kMaxAutoSteps = 9;

// One operation with its numbers.
FOR_RUST struct AutoStep {
    uint32_t kind, level;
    float factor, rest;
    float map_x[3], map_y[3];
};

// What happens to the bytes of one sample: a row of `steps`.
FOR_RUST struct AutoSteps {
    float inverse_x[3], inverse_y[3];
    AutoStep steps[kMaxAutoSteps];
};

constexpr int kThreads = 512;
constexpr int kChannels = 3;
constexpr uint32_t kValues = 256;

// What each value of each channel becomes; a histogram before.
using Table = uint32_t[kChannels][kValues];

// Calls `body` with the number of every pixel, thread by thread.
template <class Body>
static __device__ __forceinline__ void for_each_pixel(const AutoAugmentArgs& a, Body body) {
    for (uint32_t i = threadIdx.x; i < a.num_pixels; i += kThreads) body(i);
}

// Fills a table with what `body` makes of channel and value.
template <class Body>
static __device__ __forceinline__ void fill_table(Table& table, Body body) {
    // Two turns at most: what is unrolled further would never run.
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < kChannels * kValues; i += kThreads) {
        const uint32_t channel = i / kValues, value = i % kValues;
        table[channel][value] = body(channel, value);
    }
}

// The nearest whole number, the even one of two, for values below 2^22 either way: where the sum lies, numbers are one
// apart.
static __device__ __forceinline__ float rounded(float value) {
    constexpr float kExponent = 12582912.0f;
    return __fadd_rn(__fadd_rn(value, kExponent), -kExponent);
}

static __device__ __forceinline__ float sum_of_products(float a, float b, float c, float d) {
    return __fadd_rn(__fmul_rn(a, b), __fmul_rn(c, d));
}

// The own value blended with another, cut off to a whole number in 0..255.
static __device__ __forceinline__ uint32_t blended(const AutoStep& step, uint32_t own, float other) {
    const float value = sum_of_products(step.factor, static_cast<float>(own), step.rest, other);
    return static_cast<uint32_t>(fminf(fmaxf(value, 0.0f), 255.0f));
}

// The grey of a pixel, cut off to a whole number.
static __device__ __forceinline__ uint32_t grey(const uint8_t* pixel) {
    const float red = static_cast<float>(pixel[0]), green = static_cast<float>(pixel[1]);
    return static_cast<uint32_t>(
        __fadd_rn(sum_of_products(0.2989f, red, 0.587f, green), __fmul_rn(0.114f, static_cast<float>(pixel[2]))));
}

// From `a` to `b`.
static __device__ __forceinline__ float between(float a, float b, float share) {
    return __fadd_rn(a, __fmul_rn(b - a, share));
}

// The colour of a photo at (x, y), in 0..255, bit for bit as on the CPU.
static __device__ __forceinline__ void exact_bilinear(const AutoAugmentArgs& a, const uint8_t* photo, float x, float y,
                                                      float (&value)[kChannels]) {
    const int width = static_cast<int>(a.width), height = static_cast<int>(a.height);
    x = fminf(fmaxf(x, -1.0f), static_cast<float>(width));
    y = fminf(fmaxf(y, -1.0f), static_cast<float>(height));
    const float x0 = floorf(x), y0 = floorf(y);
    const int left = static_cast<int>(x0), top = static_cast<int>(y0);
#pragma unroll
    for (int c = 0; c < kChannels; c++) {
        float taps[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = left + i % 2, row = top + i / 2;
            const bool inside = column >= 0 && row >= 0 && column < width && row < height;
            const int64_t at = (static_cast<int64_t>(row) * width + column) * kChannels + c;
            taps[i / 2][i % 2] = inside ? static_cast<float>(__ldg(photo + at)) : 0.0f;
        }
        value[c] = between(between(taps[0][0], taps[0][1], x - x0), between(taps[1][0], taps[1][1], x - x0), y - y0);
    }
}

// The bytes before any step.
static __device__ __forceinline__ void first_bytes(const AutoAugmentArgs& a, const uint8_t* photo, const SampleParams& p,
                                                   const AutoSteps& s, uint8_t* to) {
    for_each_pixel(a, [&](uint32_t i) {
        const float y = static_cast<float>(i / a.width), x = static_cast<float>(i % a.width);
        float rgb[kChannels];
        exact_bilinear(a, photo, place(s.inverse_x, x, y), place(s.inverse_y, x, y), rgb);
        uint32_t bytes[kChannels];
#pragma unroll
        for (int c = 0; c < kChannels; c++) {
            const float(&of)[4] = p.colour[c];
            const float sum =
                __fadd_rn(__fadd_rn(sum_of_products(of[0], rgb[0], of[1], rgb[1]), __fmul_rn(of[2], rgb[2])), of[3]);
            bytes[c] = static_cast<uint32_t>(rounded(fminf(fmaxf(sum, 0.0f), 255.0f)));
        }
        if (p.noise_probability > 0.0f) {
            const uint4 counter = make_uint4(i, p.noise_epoch, p.noise_sample, a.noise_use);
            const uint4 words = philox4x32_10(counter, make_uint2(p.noise_key[0], p.noise_key[1]));
            if (uniform(words.x) < p.noise_probability) {
#pragma unroll
                for (int c = 0; c < kChannels; c++) bytes[c] = (words.y >> (8 * c)) & 0xffu;
            }
        }
#pragma unroll
        for (int c = 0; c < kChannels; c++) to[uint64_t{i} * kChannels + c] = static_cast<uint8_t>(bytes[c]);
    });
}

// The pixel nearest to `place`, which goes from -1 to 1 along an axis of `extent`; -1 or `extent` where there is none.
static __device__ __forceinline__ float nearest(const float (&map)[3], float x, float y, float extent) {
    const float at = __fadd_rn(sum_of_products(map[0], x, map[1], y), map[2]);
    const float pixel = __fmaf_rn(__fadd_rn(at, 1.0f), 0.5f * extent, -0.5f);
    return rounded(fminf(fmaxf(pixel, -1.0f), extent));
}

static __device__ __forceinline__ void gather(const AutoAugmentArgs& a, const AutoStep& step, const uint8_t* from,
                                              uint8_t* to) {
    const float width = static_cast<float>(a.width), height = static_cast<float>(a.height);
    for_each_pixel(a, [&](uint32_t i) {
        const float x = (static_cast<float>(i % a.width) - 0.5f * width) + 0.5f;
        const float y = (static_cast<float>(i / a.width) - 0.5f * height) + 0.5f;
        const float column = nearest(step.map_x, x, y, width), line = nearest(step.map_y, x, y, height);
        const bool inside = column >= 0.0f && line >= 0.0f && column < width && line < height;
        const uint64_t at = inside ? (static_cast<uint64_t>(line) * a.width + static_cast<uint64_t>(column)) * kChannels : 0;
#pragma unroll
        for (int c = 0; c < kChannels; c++) to[uint64_t{i} * kChannels + c] = inside ? from[at + c] : uint8_t{0};
    });
}

static __device__ __forceinline__ void sharpen(const AutoAugmentArgs& a, const AutoStep& step, const uint8_t* from,
                                               uint8_t* to) {
    const uint64_t line = uint64_t{a.width} * kChannels;
    for_each_pixel(a, [&](uint32_t i) {
        const uint32_t y = i / a.width, x = i - y * a.width;
        const bool inside = x > 0 && y > 0 && x + 1 < a.width && y + 1 < a.height;
        for (uint32_t c = 0; c < kChannels; c++) {
            const uint64_t at = uint64_t{i} * kChannels + c;
            const uint32_t own = from[at];
            uint32_t other = own;
            if (inside) {
                uint32_t sum = 4 * own;
                for (uint64_t row = at - line; row <= at + line; row += line) {
                    sum += uint32_t{from[row - kChannels]} + from[row] + from[row + kChannels];
                }
                // Rounded to the nearest; a thirteenth is never in the middle.
                other = (2 * sum + 13) / 26;
            }
            to[at] = static_cast<uint8_t>(blended(step, own, static_cast<float>(other)));
        }
    });
}

// The table of a step that has one. Every thread of the block calls it, and waits before it reads the table.
static __device__ __forceinline__ void make_table(const AutoAugmentArgs& a, const AutoStep& step, const uint8_t* photo,
                                                  Table& table, uint32_t (&shared)[kChannels][2]) {
    if (step.kind == kBrightness || step.kind == kContrast) {
        float other = 0.0f;
        if (step.kind == kContrast) {
            uint32_t sum = 0;
            for_each_pixel(a, [&](uint32_t i) { sum += grey(photo + uint64_t{i} * kChannels); });
            sum = block_sum<kThreads>(sum);
            other = __fdiv_rn(static_cast<float>(sum), static_cast<float>(a.num_pixels));
        }
        fill_table(table, [&](uint32_t, uint32_t value) { return blended(step, value, other); });
    } else if (step.kind == kPosterize) {
        fill_table(table, [&](uint32_t, uint32_t value) { return value & step.level; });
    } else if (step.kind == kSolarize) {
        fill_table(table, [&](uint32_t, uint32_t value) { return value >= step.level ? 255 - value : value; });
    } else if (step.kind == kAutoContrast) {
        if (threadIdx.x < kChannels) {
            shared[threadIdx.x][0] = 255;
            shared[threadIdx.x][1] = 0;
        }
        __syncthreads();
        uint32_t least[kChannels] = {255, 255, 255}, largest[kChannels] = {0, 0, 0};
        for_each_pixel(a, [&](uint32_t i) {
#pragma unroll
            for (int c = 0; c < kChannels; c++) {
                const uint32_t value = photo[uint64_t{i} * kChannels + c];
                least[c] = min(least[c], value);
                largest[c] = max(largest[c], value);
            }
        });
#pragma unroll
        for (int c = 0; c < kChannels; c++) {
            atomicMin(&shared[c][0], least[c]);
            atomicMax(&shared[c][1], largest[c]);
        }
        __syncthreads();
        fill_table(table, [&](uint32_t channel, uint32_t value) {
            const uint32_t low = shared[channel][0], high = shared[channel][1];
            if (low == high) return value;
            const float scale = __fmul_rn(__fdiv_rn(1.0f, static_cast<float>(high - low)), 255.0f);
            const float stretched = __fmul_rn(static_cast<float>(value) - static_cast<float>(low), scale);
            return static_cast<uint32_t>(fminf(fmaxf(stretched, 0.0f), 255.0f));
        });
    } else {
        fill_table(table, [](uint32_t, uint32_t) { return 0u; });
        __syncthreads();
        for_each_pixel(a, [&](uint32_t i) {
#pragma unroll
            for (int c = 0; c < kChannels; c++) atomicAdd(&table[c][photo[uint64_t{i} * kChannels + c]], 1u);
        });
        __syncthreads();
        // Counts become the number of pixels below each value; the largest value's own count decides the share of each.
        if (threadIdx.x < kChannels) {
            uint32_t below = 0, last = 0;
            for (uint32_t value = 0; value < kValues; value++) {
                const uint32_t count = table[threadIdx.x][value];
                table[threadIdx.x][value] = below;
                below += count;
                if (count > 0) last = count;
            }
            shared[threadIdx.x][0] = (a.num_pixels - last) / 255;
        }
        __syncthreads();
        fill_table(table, [&](uint32_t channel, uint32_t value) {
            const uint32_t share = shared[channel][0];
            return share == 0 ? value : min((table[channel][value] + share / 2) / share, 255u);
        });
    }
}

// Whether the result cannot be written over the image.
static __device__ __forceinline__ bool moves(const AutoAugmentArgs& a, uint32_t kind) {
    return kind == kMap || (kind == kSharpness && a.height > 2 && a.width > 2);
}

KERNEL(auto_augment, AutoAugmentArgs, 512) {
    __shared__ Table table;
    __shared__ uint32_t shared[kChannels][2];
    const uint32_t n = blockIdx.x;
    const int64_t row = args.rows[n];
    const SampleParams& p = static_cast<const SampleParams*>(args.params)[n];
    const AutoSteps& s = static_cast<const AutoSteps*>(args.steps)[n];
    const uint64_t photo_bytes = uint64_t{args.num_pixels} * kChannels;
    uint8_t* now = args.photos + n * photo_bytes;
    uint8_t* next = args.spare + n * photo_bytes;
    if (threadIdx.x == 0) {
        args.own_rows[n] = row < 0 ? -1 : static_cast<int32_t>(n);
        SampleParams left = p;
        for (int i = 0; i < 3; i++) {
            left.inverse_x[i] = i == 0 ? 1.0f : 0.0f;
            left.inverse_y[i] = i == 1 ? 1.0f : 0.0f;
            for (int j = 0; j < 4; j++) left.colour[i][j] = i == j ? 1.0f : 0.0f;
        }
        left.noise_probability = 0.0f;
        left.noise_key[0] = left.noise_key[1] = left.noise_epoch = left.noise_sample = 0;
        static_cast<SampleParams*>(args.own_params)[n] = left;
    }
    if (row < 0) {
        for_each_pixel(args, [&](uint32_t i) {
            for (int c = 0; c < kChannels; c++) now[uint64_t{i} * kChannels + c] = 0;
        });
        return;
    }
    // So that the last step that moves writes to `photos`.
    bool is_odd = false;
    for (int i = 0; i < kMaxAutoSteps; i++) is_odd ^= moves(args, s.steps[i].kind);
    if (is_odd) {
        uint8_t* const other = now;
        now = next;
        next = other;
    }
    first_bytes(args, args.pixels + row * photo_bytes, p, s, now);
    __syncthreads();
    for (int i = 0; i < kMaxAutoSteps; i++) {
        const AutoStep& step = s.steps[i];
        if (moves(args, step.kind)) {
            if (step.kind == kMap) {
                gather(args, step, now, next);
            } else {
                sharpen(args, step, now, next);
            }
            uint8_t* const other = now;
            now = next;
            next = other;
        } else if (step.kind == kColor) {
            for_each_pixel(args, [&](uint32_t pixel) {
                uint8_t* const values = now + uint64_t{pixel} * kChannels;
                const float of_pixel = static_cast<float>(grey(values));
                for (int c = 0; c < kChannels; c++) values[c] = static_cast<uint8_t>(blended(step, values[c], of_pixel));
            });
        } else if (step.kind >= kBrightness && step.kind <= kEqualize) {
            make_table(args, step, now, table, shared);
            __syncthreads();
            for_each_pixel(args, [&](uint32_t pixel) {
                uint8_t* const values = now + uint64_t{pixel} * kChannels;
                for (int c = 0; c < kChannels; c++) values[c] = static_cast<uint8_t>(table[c][values[c]]);
            });
        } else {
            continue;
        }
        __syncthreads();
    }
}
