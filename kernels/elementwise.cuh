// The loop of elementwise kernels: 16 bytes a thread and turn, then what is left one by one.
#pragma once

#include "common.cuh"

// Bytes that a thread reads or writes in one access.
FOR_RUST constexpr int kAccessBytes = 16;

// Elements of such an access.
template <class T>
constexpr int kVecElems = kAccessBytes / static_cast<int>(sizeof(T));

// A number of elements as a type, so that a generic lambda can use it as a constant.
template <int N>
struct Width {
    static constexpr int value = N;
};

// Calls `body(width, at)` once for every `kWidth` elements from `at` on, and for each of the last few alone. The grid
// is one-dimensional, of any size but at least `kWidth` threads.
template <int kWidth, class Body>
static __device__ __forceinline__ void for_each_vec(uint64_t num_elems, Body body) {
    const uint64_t num_vecs = num_elems / kWidth;
    for (uint64_t i = grid_thread(); i < num_vecs; i += grid_threads()) body(Width<kWidth>(), i * kWidth);
    const uint64_t rest = num_vecs * kWidth + grid_thread();
    if (rest < num_elems) body(Width<1>(), rest);
}

// Stores `N` neighbouring numbers, rounded, in accesses of kWidth.
template <int kWidth, class T, int N>
static __device__ __forceinline__ void store_rounded(T* to, const float (&values)[N]) {
    static_assert(N % kWidth == 0, "whole accesses");
#pragma unroll
    for (int at = 0; at < N; at += kWidth) {
        float part[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; i++) part[i] = values[at + i];
        store_vec(to + at, rounded<T>(part));
    }
}

// Writes `value` to every one of `num_elems` elements.
template <class T>
static __device__ __forceinline__ void fill_vecs(T* y, uint64_t num_elems, T value) {
    for_each_vec<kVecElems<T>>(num_elems, [=](auto width, uint64_t at) {
        constexpr int kWidth = decltype(width)::value;
        Vec<T, kWidth> vec;
#pragma unroll
        for (int i = 0; i < kWidth; i++) vec[i] = value;
        store_vec(y + at, vec);
    });
}

// `N` neighbouring floats, in accesses of at most 16 bytes.
template <int N>
static __device__ __forceinline__ void load_floats(float (&to)[N], const float* from) {
    constexpr int kStep = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i += kStep) {
        const Vec<float, kStep> part = load_vec<kStep>(from + i);
#pragma unroll
        for (int j = 0; j < kStep; j++) to[i + j] = part[j];
    }
}

template <int N>
static __device__ __forceinline__ void store_floats(float* to, const float (&from)[N]) {
    constexpr int kStep = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i += kStep) {
        Vec<float, kStep> part;
#pragma unroll
        for (int j = 0; j < kStep; j++) part[j] = from[i + j];
        store_vec(to + i, part);
    }
}
