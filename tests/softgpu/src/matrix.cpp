// ldmatrix, mma.m16n8k16 of bf16 and mma.m16n8k8 of TF32. With group = lane / 4, pair = 2 (lane % 4) and first =
// pair of bf16, of which a register has two, and lane % 4 of TF32, a lane holds
//   of A (16xK)        rows group, + 8, group, + 8 and columns first, first, first + K / 2, first + K / 2
//   of B (Kx8)         rows first and first + K / 2 of column group
//   of C and D (16x8)  rows group, group, + 8, + 8 and columns pair, pair + 1, pair, pair + 1
#include "block.hpp"
#include "float_values.hpp"
#include "handlers.hpp"
#include "settings.hpp"
#include "warp.hpp"

namespace softgpu {
namespace {

constexpr int kM = 16, kN = 8;

// Lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
template <bool kTransposed>
void ldmatrix(Block& block, Warp& warp, const Instruction& in, uint32_t) {
    const Operand& operand = in.sources[0];
    uint16_t rows[4][8][8];
    for (int matrix = 0; matrix < in.num_elems; matrix++) {
        for (int row = 0; row < 8; row++) {
            const int lane = 8 * matrix + row;
            const uint64_t register_value =
                operand.bytes == 8 ? warp.longs_of(operand)[lane] : warp.words_of(operand)[lane];
            const auto address = static_cast<uint32_t>(register_value + static_cast<uint64_t>(in.offsets[0]));
            memcpy(rows[matrix][row], block.shared(address, 16, lane, Access::Read), 16);
        }
    }
    for (int matrix = 0; matrix < in.num_elems; matrix++) {
        uint32_t* d = warp.words_of(in.results[matrix]);
        for (int lane = 0; lane < kWarpLanes; lane++) {
            const int group = lane / 4, pair = 2 * (lane % 4);
            const auto& m = rows[matrix];
            const uint32_t low = kTransposed ? m[pair][group] : m[group][pair];
            const uint32_t high = kTransposed ? m[pair + 1][group] : m[group][pair + 1];
            d[lane] = low | high << 16;
        }
    }
}

// The products' types: positions of one product, elements of a register, and such an element.
struct Bf16 {
    static constexpr int kK = 16, kElems = 2;
    static float element(uint32_t bits, int index) { return bf16_value(bits >> 16 * index & 0xffff); }
};

// What lies below TF32's bits is ignored.
struct Tf32 {
    static constexpr int kK = 8, kElems = 1;
    static float element(uint32_t bits, int) { return bit_cast<float>(bits & kTf32Bits); }
};

template <class T>
struct Fragments {
    float a[kM][T::kK], b[T::kK][kN], c[kM][kN];
};

template <class T>
void gather(Warp& warp, const Instruction& in, Fragments<T>& matrices) {
    for (int lane = 0; lane < kWarpLanes; lane++) {
        const int group = lane / 4, pair = 2 * (lane % 4), first = T::kElems * (lane % 4);
        for (int index = 0; index < 4; index++) {
            const uint32_t bits = warp.words_of(in.sources[index])[lane];
            float* to = &matrices.a[group + 8 * (index % 2)][first + T::kK / 2 * (index / 2)];
            for (int n = 0; n < T::kElems; n++) to[n] = T::element(bits, n);
        }
        for (int index = 0; index < 2; index++) {
            const uint32_t bits = warp.words_of(in.sources[4 + index])[lane];
            for (int n = 0; n < T::kElems; n++) {
                matrices.b[first + T::kK / 2 * index + n][group] = T::element(bits, n);
            }
        }
        for (int index = 0; index < 4; index++) {
            const uint32_t bits = warp.words_of(in.sources[6 + index])[lane];
            matrices.c[group + 8 * (index / 2)][pair + index % 2] = bit_cast<float>(bits);
        }
    }
}

template <class T>
void scatter(Warp& warp, const Instruction& in, const Fragments<T>& matrices) {
    for (int lane = 0; lane < kWarpLanes; lane++) {
        const int group = lane / 4, pair = 2 * (lane % 4);
        for (int index = 0; index < 4; index++) {
            warp.words_of(in.results[index])[lane] =
                float_bits(matrices.c[group + 8 * (index / 2)][pair + index % 2]);
        }
    }
}

// c += a b for the products from `first_k` on. Products are exact in f64 and their sum nearly so.
template <bool kTruncate, class T>
void accumulate(Fragments<T>& matrices, int first_k, int num_k) {
    for (int row = 0; row < kM; row++) {
        double sums[kN];
        for (int column = 0; column < kN; column++) sums[column] = double{matrices.c[row][column]};
        for (int k = first_k; k < first_k + num_k; k++) {
            const double a = double{matrices.a[row][k]};
            for (int column = 0; column < kN; column++) sums[column] += a * double{matrices.b[k][column]};
        }
        for (int column = 0; column < kN; column++) {
            matrices.c[row][column] =
                kTruncate ? towards_zero(sums[column]) : static_cast<float>(sums[column]);
        }
    }
}

template <class T>
void mma(Block&, Warp& warp, const Instruction& in, uint32_t) {
    Fragments<T> matrices;
    gather(warp, in, matrices);
    accumulate<false>(matrices, 0, T::kK);
    scatter(warp, in, matrices);
}

// Nearer to what an A100 does: sums of eight products of bf16 or four of TF32, each cut towards zero.
template <class T>
void truncating_mma(Block&, Warp& warp, const Instruction& in, uint32_t) {
    Fragments<T> matrices;
    gather(warp, in, matrices);
    accumulate<true>(matrices, 0, T::kK / 2);
    accumulate<true>(matrices, T::kK / 2, T::kK / 2);
    scatter(warp, in, matrices);
}

template <class T>
Handler mma_of() {
    return settings().truncate_mma ? truncating_mma<T> : mma<T>;
}

}  // namespace

Handler ldmatrix_handler(bool transposed) { return transposed ? ldmatrix<true> : ldmatrix<false>; }
Handler mma_handler(Type matrices) {
    return matrices == Type::BF16 ? mma_of<Bf16>() : mma_of<Tf32>();
}

}  // namespace softgpu
