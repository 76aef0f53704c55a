// The mask of a ReLU in the backward pass of the batch norm before it: 0 where y is not above 0, and dy elsewhere. y is read,
// or computed from x once more as batch_norm_fwd.cu computes it, to the bit, or it is a bit that batch_norm_fwd.cu left. A y that
// is not a number lets dy through.
//
// A mask is applied in two steps, so that what it reads of several places can be under way together: `load(at)`, then
// `apply(what was loaded, x, dy)`.
#pragma once

#include "channels.cuh"

struct Nothing {};

// dy and x of a place, and what the mask needs of it.
template <class Mask>
struct DyAndX {
    using T = typename Mask::T;
    static constexpr int kWidth = Mask::kWidth;
    Packed<T, kWidth> dy, x;
    typename Mask::Loaded loaded;

    // x, and dy behind the mask.
    __device__ __forceinline__ void x_and_dz(const Mask& mask, float (&x_of)[kWidth], float (&dz)[kWidth]) const {
        x.floats(x_of);
        dy.floats(dz);
        mask.apply(loaded, x_of, dz);
    }
};

template <class Args, class Mask>
static __device__ __forceinline__ DyAndX<Mask> load_dy_and_x(const Args& a, const Mask& mask, uint64_t at) {
    using T = typename Mask::T;
    return {load_packed<Mask::kWidth>(static_cast<const T*>(a.dy) + at),
            load_packed<Mask::kWidth>(static_cast<const T*>(a.x) + at), mask.load(at)};
}

// No ReLU followed.
template <class Element, int kElems>
struct NoMask {
    using T = Element;
    static constexpr int kWidth = kElems;
    using Loaded = Nothing;

    __device__ __forceinline__ Nothing load(uint64_t) const { return {}; }
    __device__ __forceinline__ void apply(Nothing, const float (&)[kWidth], float (&)[kWidth]) const {}
};

template <class Element, int kElems>
struct ResultMask {
    using T = Element;
    static constexpr int kWidth = kElems;
    using Loaded = Packed<T, kWidth>;
    const T* y;

    __device__ __forceinline__ Loaded load(uint64_t at) const { return load_packed<kWidth>(y + at); }
    __device__ __forceinline__ void apply(const Loaded& loaded, const float (&)[kWidth], float (&dy)[kWidth]) const {
        float result[kWidth];
        loaded.floats(result);
#pragma unroll
        for (int i = 0; i < kWidth; i++) dy[i] = result[i] <= 0.0f ? 0.0f : dy[i];
    }
};

// A byte has eight neighbouring channels, the first in its lowest bit.
template <class Element>
struct BitsMask {
    using T = Element;
    static constexpr int kWidth = 8;
    using Loaded = uint32_t;
    const uint8_t* bits;

    __device__ __forceinline__ uint32_t load(uint64_t at) const { return bits[at / kWidth]; }
    __device__ __forceinline__ void apply(uint32_t loaded, const float (&)[kWidth], float (&dy)[kWidth]) const {
#pragma unroll
        for (int i = 0; i < kWidth; i++) dy[i] = (loaded >> i & 1) ? dy[i] : 0.0f;
    }
};

template <class Element, int kElems>
struct RecomputedMask {
    using T = Element;
    static constexpr int kWidth = kElems;
    using Loaded = Nothing;
    SavedNorm<kWidth> norm;

    __device__ __forceinline__ RecomputedMask(const float* mean, const float* rstd, const float* gamma, const float* beta)
        : norm(mean, rstd, gamma, beta) {}

    __device__ __forceinline__ Nothing load(uint64_t) const { return {}; }
    __device__ __forceinline__ void apply(Nothing, const float (&x)[kWidth], float (&dy)[kWidth]) const {
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            // Where y was stored as zero or less.
            dy[i] = norm(i, x[i]) <= largest_zero<T>() ? 0.0f : dy[i];
        }
    }
};

// Calls `each(mask)` with the mask that a thread's channels have: `a.y`, `a.beta` and `a.bits` say which, one of them or none; bits
// only of threads of eight channels.
template <class T, int kWidth, class Args, class Each>
static __device__ __forceinline__ void with_mask(const Args& a, uint32_t channel, const Each& each) {
    if (a.beta) {
        each(RecomputedMask<T, kWidth>(a.mean + channel, a.rstd + channel, a.gamma + channel, a.beta + channel));
        return;
    }
    if constexpr (kWidth == 8) {
        if (a.bits) {
            each(BitsMask<T>{static_cast<const uint8_t*>(a.bits)});
            return;
        }
    }
    if (a.y) {
        each(ResultMask<T, kWidth>{static_cast<const T*>(a.y)});
    } else {
        each(NoMask<T, kWidth>{});
    }
}
