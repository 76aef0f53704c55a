// The gradient that reaches a batch norm through a ReLU and a max pooling, pixel by pixel: it is never written.
#pragma once

#include "pool_gradient.cuh"
#include "relu_mask.cuh"

// Calls `each(at, x, dz)` for the pixels of a block's units, of which a thread takes every kRows-th: x and dz are those of its
// channels, `at` is where they begin.
template <class T, class Unit, class Tile, class Args, class Each>
static __device__ __forceinline__ void for_each_dz(const Args& a, const Tile& tile,
                                                   const RecomputedMask<T, Tile::kWidth>& mask, const Each& each) {
    constexpr int kWidth = Tile::kWidth;
    static_assert(kWidth == Unit::kWidth, "a tile and a unit of the same channels");
    const PoolGeometry& g = a.geometry;
    const uint32_t first = blockIdx.x * a.block_units;
    const uint32_t end = first + min(a.block_units, a.num_units - first);
    for (uint32_t unit = first + tile.row; unit < end; unit += Tile::kRows) {
        const PoolPlace at = place_of(unit, tile.channel, a.units);
        float sums[Unit::kPixels][kWidth] = {};
        Unit::gather(g, static_cast<const T*>(a.dy), a.argmax, at, sums);
#pragma unroll
        for (uint32_t j = 0; j < Unit::kPixels; j++) {
            uint64_t pixel;
            if (!Unit::has_pixel(g, at, j, pixel)) continue;
            const uint64_t from = pixel * g.channels + tile.channel;
            const Vec<T, kWidth> x = load_vec<kWidth>(static_cast<const T*>(a.x) + from);
            Vec<T, kWidth> dz;
#pragma unroll
            for (int k = 0; k < kWidth; k++) dz[k] = T(sums[j][k]);
            mask.apply(mask.load(from), x, dz);
            each(from, x, dz);
        }
    }
}
