// The types of PTX, and the bits of a register seen as one of them.
#pragma once

#include <cstdint>
#include <cstring>

namespace softgpu {

enum class Type : uint8_t {
    None,
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    BF16,
    B32,
    U32,
    S32,
    F32,
    BF16x2,
    TF32,
    B64,
    U64,
    S64,
    F64,
};

constexpr unsigned bytes_of(Type type) {
    switch (type) {
        case Type::None:
        case Type::Pred: return 0;
        case Type::B8:
        case Type::U8:
        case Type::S8: return 1;
        case Type::B16:
        case Type::U16:
        case Type::S16:
        case Type::BF16: return 2;
        case Type::B64:
        case Type::U64:
        case Type::S64:
        case Type::F64: return 8;
        default: return 4;
    }
}

constexpr bool is_signed(Type type) {
    return type == Type::S8 || type == Type::S16 || type == Type::S32 || type == Type::S64;
}

constexpr bool is_float(Type type) {
    return type == Type::F32 || type == Type::F64 || type == Type::BF16 || type == Type::BF16x2 ||
           type == Type::TF32;
}

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// Instructions of single precision have no payloads: a NaN they make is this one.
constexpr uint32_t kCanonicalNan = 0x7fffffff;

inline uint32_t float_bits(float value) { return value != value ? kCanonicalNan : bit_cast<uint32_t>(value); }

inline float bf16_value(uint32_t bits) { return bit_cast<float>(bits << 16); }

// To the nearest, ties to even, as cvt.rn.bf16.f32 does.
inline uint32_t bf16_bits(float value) {
    if (value != value) return kCanonicalNan >> 16;
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t kept = bits >> 16, dropped = bits & 0xffff;
    return kept + (dropped > 0x8000 || (dropped == 0x8000 && (kept & 1)));
}

// Bits of a register that TF32 has.
constexpr uint32_t kTf32Bits = 0xffffe000;

// To the nearest, ties away from zero, as cvt.rna.tf32.f32 does.
inline uint32_t tf32_bits(float value) {
    if (value != value) return kCanonicalNan;
    const uint32_t bits = bit_cast<uint32_t>(value), dropped = bits & ~kTf32Bits;
    return (bits & kTf32Bits) + (dropped >= 0x1000 ? 0x2000 : 0);
}

}  // namespace softgpu
