// Everything a kernel file starts from: the words that differ between nvcc and the host, bf16, sums, vector accesses,
// random numbers. Under nvcc the words are CUDA's own; on the host `host.h` supplies them for the emulator.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
// Stands before a constant or a struct that Rust needs, too: build.rs reads it here and writes it for Rust.
#define FOR_RUST

using Word16 = uint4;

// On GPUs of compute capability 9.0 and later a launch may begin before the one before it is done (programmatic dependent
// launch): what it reads is there, and what it overwrites no longer needed, once all launches before it are.
static __device__ __forceinline__ void wait_for_launches_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets blocks of the next launch take what this one leaves free and wait there, once each of its blocks has come here.
static __device__ __forceinline__ void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The head of a kernel: symbol, argument struct `args`, threads per block, and where the assembler is not to save registers
// for the sake of more, the fewest blocks of a multiprocessor. The body follows in braces. Every thread waits for the launches
// before: the host relies on it where it lets launches overlap (`CudaDevice::launch`).
#define KERNEL(symbol, Args, ...)                                                                              \
    static __device__ __forceinline__ void symbol##_body(const Args& args);                                    \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) symbol(const __grid_constant__ Args args) {      \
        wait_for_launches_before();                                                                            \
        symbol##_body(args);                                                                                   \
    }                                                                                                          \
    static __device__ __forceinline__ void symbol##_body(const Args& args)

// The block's dynamic shared memory; every call gives the same address, aligned to 1024 bytes.
template <class T>
static __device__ __forceinline__ T* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared_bytes[];
    return reinterpret_cast<T*>(dynamic_shared_bytes);
}
#else
#include "host.h"
#endif

// Threads of a warp.
FOR_RUST constexpr int kWarpThreads = 32;

// The upper half of an IEEE single. Conversion to it rounds to nearest even; arithmetic is done in float.
struct alignas(2) bf16 {
    uint16_t bits;

    bf16() = default;

    __device__ __forceinline__ explicit bf16(float value) {
#ifdef __CUDACC__
        // What __float2bfloat16_rn is; reading cuda_bf16.h took more than a third of the time to compile most files.
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
        const uint32_t word = __float_as_uint(value);
        const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
        const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
        bits = static_cast<uint16_t>(is_nan ? (word >> 16) | 0x40u : rounded);
#endif
    }

    __device__ __forceinline__ operator float() const { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
};

template <class T>
static __host__ __device__ constexpr T ceil_div(T value, T divisor) {
    return (value + divisor - 1) / divisor;
}

// Position of this thread in a one-dimensional grid, and the number of threads in it: the start and the stride of a
// loop over elements.
static __device__ __forceinline__ uint64_t grid_thread() {
    return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ uint64_t grid_threads() {
    return static_cast<uint64_t>(gridDim.x) * blockDim.x;
}

// N neighbouring elements moved in one access. Its address must be a multiple of its size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
    static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
    T elems[N];

    __device__ __forceinline__ T& operator[](int i) { return elems[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return elems[i]; }
};

// The integer type that makes the compiler emit one access of that many bytes.
template <int kBytes>
struct Word;
template <>
struct Word<1> { using type = uint8_t; };
template <>
struct Word<2> { using type = uint16_t; };
template <>
struct Word<4> { using type = uint32_t; };
template <>
struct Word<8> { using type = uint64_t; };
template <>
struct Word<16> { using type = Word16; };

// N neighbouring elements as they lie in memory. What is loaded before it is used stays so until then: a Vec of bf16 is a
// register an element, and taking it apart waits for the load, and with it for all that could have been loaded meanwhile.
template <class T, int N>
struct Packed {
    using W = typename Word<static_cast<int>(sizeof(T)) * N>::type;
    W word;

    __device__ __forceinline__ Vec<T, N> unpacked() const {
        Vec<T, N> vec;
        memcpy(&vec, &word, sizeof vec);
        return vec;
    }

    // The elements in f32. Those of bf16 are halves of registers here, and an instruction each; of a Vec they are registers
    // first, for another.
    __device__ __forceinline__ void floats(float (&to)[N]) const {
        if constexpr (sizeof(T) == sizeof(bf16) && N % 2 == 0) {
            uint32_t pairs[N / 2];
            memcpy(pairs, &word, sizeof pairs);
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                to[2 * i] = __uint_as_float(pairs[i] << 16);
                to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
            }
        } else {
            const Vec<T, N> vec = unpacked();
#pragma unroll
            for (int i = 0; i < N; i++) to[i] = float(vec[i]);
        }
    }
};

template <int N, class T>
static __device__ __forceinline__ Packed<T, N> load_packed(const T* from) {
    return {*reinterpret_cast<const typename Packed<T, N>::W*>(from)};
}

template <int N, class T>
static __device__ __forceinline__ Vec<T, N> load_vec(const T* from) {
    return load_packed<N>(from).unpacked();
}

template <int N, class T>
static __device__ __forceinline__ void store_vec(T* to, const Vec<T, N>& vec) {
    using W = typename Word<static_cast<int>(sizeof(T)) * N>::type;
    W word;
    memcpy(&word, &vec, sizeof word);
    *reinterpret_cast<W*>(to) = word;
}

template <int N, class T>
static __device__ __forceinline__ void store_vec(T* to, const Packed<T, N>& packed) {
    *reinterpret_cast<typename Packed<T, N>::W*>(to) = packed.word;
}

// The nearest bf16 of two numbers, the first in the lower half.
static __device__ __forceinline__ uint32_t rounded_pair(float first, float second) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return bf16(first).bits | uint32_t{bf16(second).bits} << 16;
#endif
}

// The nearest T of each number. One instruction rounds two to bf16; the one that rounds a single number runs at an eighth of its
// rate, and compilers take it wherever what is rounded is not only stored.
template <class T, int N>
static __device__ __forceinline__ Packed<T, N> rounded(const float (&values)[N]) {
    Packed<T, N> packed;
    if constexpr (sizeof(T) == sizeof(bf16) && N % 2 == 0) {
        uint32_t pairs[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) pairs[i] = rounded_pair(values[2 * i], values[2 * i + 1]);
        memcpy(&packed, pairs, sizeof packed);
    } else {
        Vec<T, N> vec;
#pragma unroll
        for (int i = 0; i < N; i++) vec[i] = T(values[i]);
        memcpy(&packed, &vec, sizeof packed);
    }
    return packed;
}

// The largest number that is rounded to zero.
template <class T>
static __device__ __forceinline__ float largest_zero() {
    // Half of the smallest bf16 above zero.
    return sizeof(T) == sizeof(bf16) ? __uint_as_float(0x8000u) : 0.0f;
}

// Sum over the 32 lanes of a full warp, in every lane. Order: a butterfly, lane distances 16, 8, 4, 2, 1.
// Addition commutes, so all lanes hold the same bits.
template <class T>
static __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

template <class T>
static __device__ __forceinline__ T warp_max(T value) {
#pragma unroll
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

// Sums of N values over a block of kThreads (a multiple of 32, one-dimensional), in every thread. Every thread of the
// block must call it. Order: `warp_sum`, then the warps one after another.
template <int kThreads, int N, class T>
static __device__ void block_sum(T (&values)[N]) {
    static_assert(kThreads % kWarpThreads == 0, "whole warps only");
    constexpr int kWarps = kThreads / kWarpThreads;
    __shared__ T partials[kWarps][N];
    const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = warp_sum(values[i]);
    __syncthreads();  // a sum before this one may still be read
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) partials[warp][i] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        T sum = partials[0][i];
        for (int w = 1; w < kWarps; w++) sum += partials[w][i];
        values[i] = sum;
    }
}

template <int kThreads, class T>
static __device__ __forceinline__ T block_sum(T value) {
    T values[1] = {value};
    block_sum<kThreads>(values);
    return values[0];
}

// What a batch norm makes of x: the same bits wherever it is computed, because nothing is left for compilers to contract.
static __device__ __forceinline__ float normalized(float x, float mean, float scale, float beta) {
    return __fmaf_rn(x - mean, scale, beta);
}

// Four random words for one counter under one key: ten rounds of Philox4x32, the numbers of src/rng.rs.
static __device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t low_0 = 0xD2511F53u * counter.x, high_0 = __umulhi(0xD2511F53u, counter.x);
        const uint32_t low_1 = 0xCD9E8D57u * counter.z, high_1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high_1 ^ counter.y ^ key.x, low_1, high_0 ^ counter.w ^ key.y, low_0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return counter;
}

// Uniform in [0, 1), a multiple of 2^-24.
static __device__ __forceinline__ float uniform(uint32_t word) {
    return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}
