// cvt.
#include <cmath>
#include <limits>
#include <type_traits>

#include "block.hpp"
#include "float_values.hpp"
#include "handlers.hpp"
#include "lanewise.hpp"

namespace softgpu {
namespace {

template <class T>
struct Tag {
    using Value = T;
};

// Calls `make` with the C++ type, or gives no handler.
template <class Make>
Handler with_integer(Type type, Make make) {
    switch (type) {
        case Type::U8: return make(Tag<uint8_t>());
        case Type::S8: return make(Tag<int8_t>());
        case Type::U16: return make(Tag<uint16_t>());
        case Type::S16: return make(Tag<int16_t>());
        case Type::U32: return make(Tag<uint32_t>());
        case Type::S32: return make(Tag<int32_t>());
        case Type::U64: return make(Tag<uint64_t>());
        case Type::S64: return make(Tag<int64_t>());
        default: return nullptr;
    }
}

template <class Make>
Handler with_float(Type type, Make make) {
    switch (type) {
        case Type::F32: return make(Tag<float>());
        case Type::F64: return make(Tag<double>());
        default: return nullptr;
    }
}

// Integers may lie in a register wider than their type: then in the other file, and filled by the sign of the
// type.
template <class T, class Body>
void with_integer_source(Warp& warp, const Operand& operand, Body body) {
    if (operand.bytes == 8) {
        body([from = warp.longs_of(operand)](int lane) { return static_cast<T>(from[lane]); });
    } else {
        body([from = warp.words_of(operand)](int lane) { return static_cast<T>(from[lane]); });
    }
}

template <class Body>
void with_integer_result(Warp& warp, const Operand& operand, Body body) {
    if (operand.bytes == 8) body(warp.longs_of(operand));
    else body(warp.words_of(operand));
}

template <class T, class To>
void store(T* to, int lane, To value) {
    to[lane] = static_cast<T>(value);
}

template <class To, class From>
To clamp_to(From value) {
    using Limits = std::numeric_limits<To>;
    const auto wide = static_cast<__int128>(value);
    if (wide < static_cast<__int128>(Limits::min())) return Limits::min();
    if (wide > static_cast<__int128>(Limits::max())) return Limits::max();
    return static_cast<To>(value);
}

double round_to_integer(double value, Rounding rounding) {
    switch (rounding) {
        case Rounding::Rni: return std::nearbyint(value);
        case Rounding::Rmi: return std::floor(value);
        case Rounding::Rpi: return std::ceil(value);
        default: return std::trunc(value);
    }
}

// The nearest number that the type has. Of a NaN, 0 where neither type has 64 bits and the highest bit
// elsewhere.
template <class To, class From>
To float_to_integer(From value, Rounding rounding) {
    using Limits = std::numeric_limits<To>;
    if (value != value) {
        constexpr bool is_zero = std::is_same_v<From, float> && sizeof(To) < 8;
        return is_zero ? To{0} : static_cast<To>(std::make_unsigned_t<To>{1} << (8 * sizeof(To) - 1));
    }
    const double rounded = round_to_integer(static_cast<double>(value), rounding);
    if (rounded <= static_cast<double>(Limits::min())) return Limits::min();
    if (rounded >= static_cast<double>(Limits::max())) return Limits::max();
    return static_cast<To>(rounded);
}

template <class To, class From, bool kSaturate>
void integer_to_integer(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    with_integer_source<From>(warp, in.sources[0], [&](auto source) {
        with_integer_result(warp, in.results[0], [&](auto* d) {
            each_lane(lane_mask, [=](int lane) {
                const From value = source(lane);
                store(d, lane, kSaturate ? clamp_to<To>(value) : static_cast<To>(value));
            });
        });
    });
}

template <class To, class From>
void integer_to_float(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    auto* d = lanes_of<To>(warp, in.results[0]);
    with_integer_source<From>(warp, in.sources[0], [&](auto source) {
        each_lane(lane_mask, [=](int lane) { d[lane] = to_element<To>(static_cast<To>(source(lane))); });
    });
}

template <class To, class From>
void float_to_integer_lanes(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const auto* a = lanes_of<From>(warp, in.sources[0]);
    with_integer_result(warp, in.results[0], [&](auto* d) {
        each_lane(lane_mask, [&](int lane) {
            From value = from_element<From>(a[lane]);
            if constexpr (std::is_same_v<From, float>) {
                value = in.flush_subnormals ? flush_subnormal(value) : value;
            }
            store(d, lane, float_to_integer<To>(value, in.rounding));
        });
    });
}

// To an integral value in f32, or no rounding at all.
void single_to_single(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    uint32_t* d = warp.words_of(in.results[0]);
    const uint32_t* a = warp.words_of(in.sources[0]);
    each_lane(lane_mask, [&](int lane) {
        float value = bit_cast<float>(a[lane]);
        if (in.flush_subnormals) value = flush_subnormal(value);
        if (in.rounding != Rounding::None) {
            value = static_cast<float>(round_to_integer(double{value}, in.rounding));
        }
        d[lane] = float_bits(in.saturate ? saturate_unit(value) : value);
    });
}

struct Widen {
    double operator()(float a) const { return a; }
};

struct Narrow {
    float operator()(double a) const { return static_cast<float>(a); }
};

struct ToBf16 {
    uint32_t operator()(float a) const { return bf16_bits(a); }
};

struct FromBf16 {
    float operator()(uint32_t bits) const { return bf16_value(bits); }
};

struct ToTf32 {
    uint32_t operator()(float a) const { return tf32_bits(a); }
};

// The first source becomes the upper half.
struct ToBf16Pair {
    uint32_t operator()(float a, float b) const { return bf16_bits(a) << 16 | bf16_bits(b); }
};

bool is_integral_rounding(Rounding rounding) {
    return rounding == Rounding::Rni || rounding == Rounding::Rzi || rounding == Rounding::Rmi ||
           rounding == Rounding::Rpi;
}

Handler between_floats(const Instruction& in) {
    const Type to = in.type, from = in.source_type;
    const bool plain = !in.flush_subnormals && !in.saturate;
    const bool rounds = in.rounding == Rounding::Rn;
    if (to == Type::F32 && from == Type::F32) {
        return in.rounding == Rounding::None || is_integral_rounding(in.rounding) ? single_to_single
                                                                                  : nullptr;
    }
    if (!plain) return nullptr;
    if (to == Type::F64 && from == Type::F32) {
        return in.rounding == Rounding::None ? unary<float, Widen> : nullptr;
    }
    if (to == Type::F32 && from == Type::F64) return rounds ? unary<double, Narrow> : nullptr;
    if (to == Type::F32 && from == Type::BF16) {
        return in.rounding == Rounding::None ? unary<uint32_t, FromBf16> : nullptr;
    }
    if (to == Type::BF16 && from == Type::F32) return rounds ? unary<float, ToBf16> : nullptr;
    if (to == Type::BF16x2 && from == Type::F32) return rounds ? binary<float, ToBf16Pair> : nullptr;
    if (to == Type::TF32 && from == Type::F32) {
        return in.rounding == Rounding::Rna ? unary<float, ToTf32> : nullptr;
    }
    return nullptr;
}

Handler between_integers(const Instruction& in) {
    if (in.rounding != Rounding::None || in.flush_subnormals) return nullptr;
    return with_integer(in.type, [&](auto to) {
        return with_integer(in.source_type, [&](auto from) -> Handler {
            using To = typename decltype(to)::Value;
            using From = typename decltype(from)::Value;
            return in.saturate ? integer_to_integer<To, From, true> : integer_to_integer<To, From, false>;
        });
    });
}

Handler from_integer(const Instruction& in) {
    if (in.rounding != Rounding::Rn || in.saturate || in.flush_subnormals) return nullptr;
    return with_float(in.type, [&](auto to) {
        return with_integer(in.source_type, [&](auto from) -> Handler {
            return integer_to_float<typename decltype(to)::Value, typename decltype(from)::Value>;
        });
    });
}

// Saturation is what happens anyway.
Handler to_integer(const Instruction& in) {
    if (!is_integral_rounding(in.rounding) || (in.flush_subnormals && in.source_type != Type::F32)) {
        return nullptr;
    }
    return with_integer(in.type, [&](auto to) {
        return with_float(in.source_type, [&](auto from) -> Handler {
            return float_to_integer_lanes<typename decltype(to)::Value, typename decltype(from)::Value>;
        });
    });
}

}  // namespace

Handler convert_handler(const Instruction& in) {
    if (is_float(in.type) && is_float(in.source_type)) return between_floats(in);
    if (is_float(in.type)) return from_integer(in);
    if (is_float(in.source_type)) return to_integer(in);
    return between_integers(in);
}

}  // namespace softgpu
