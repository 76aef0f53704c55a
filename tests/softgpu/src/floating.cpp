// Arithmetic of f32 and f64. Approximations such as ex2 are rounded correctly, or nearly: through f64.
#include <cfenv>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>
#include <unordered_map>

#include "block.hpp"
#include "float_values.hpp"
#include "handlers.hpp"
#include "lanewise.hpp"
#include "settings.hpp"

namespace softgpu {
namespace {

struct FusedMultiplyAdd {
    template <class T>
    T operator()(T a, T b, T c) const {
        return std::fma(a, b, c);
    }
};

struct SplitMultiplyAdd {
    template <class T>
    T operator()(T a, T b, T c) const {
        return a * b + c;
    }
};

struct Reciprocal {
    template <class T>
    T operator()(T a) const {
        return 1 / a;
    }
};

struct SquareRoot {
    template <class T>
    T operator()(T a) const {
        return std::sqrt(a);
    }
};

// A NaN yields to a number, and -0 lies below +0.
template <bool kMaximum>
struct Extremum {
    template <class T>
    T operator()(T a, T b) const {
        if (a != a) return b != b ? std::numeric_limits<T>::quiet_NaN() : b;
        if (b != b) return a;
        if (a == b) return std::signbit(a) == kMaximum ? b : a;
        return (a > b) == kMaximum ? a : b;
    }
};

// The bits of the sign alone change: a NaN keeps the others.
struct Negate {
    uint32_t operator()(uint32_t bits) const { return bits ^ 0x8000'0000u; }
    uint64_t operator()(uint64_t bits) const { return bits ^ 0x8000'0000'0000'0000u; }
};

struct Absolute {
    uint32_t operator()(uint32_t bits) const { return bits & 0x7fff'ffffu; }
    uint64_t operator()(uint64_t bits) const { return bits & 0x7fff'ffff'ffff'ffffu; }
};

struct NegateValue {
    float operator()(float a) const { return -a; }
};

struct AbsoluteValue {
    float operator()(float a) const { return std::fabs(a); }
};

struct ReciprocalSquareRoot {
    float operator()(float a) const { return static_cast<float>(1 / std::sqrt(double{a})); }
};

struct Exp2 {
    float operator()(float a) const { return static_cast<float>(std::exp2(double{a})); }
};

struct Log2 {
    float operator()(float a) const { return static_cast<float>(std::log2(double{a})); }
};

struct Sine {
    float operator()(float a) const { return static_cast<float>(std::sin(double{a})); }
};

struct Cosine {
    float operator()(float a) const { return static_cast<float>(std::cos(double{a})); }
};

struct Tanh {
    float operator()(float a) const { return static_cast<float>(std::tanh(double{a})); }
};

// Rounding other than to the nearest, and the modifiers .ftz and .sat, in f32.
struct Modified {
    bool flush, saturate;
    int rounding;

    explicit Modified(const Instruction& in)
        : flush(in.flush_subnormals), saturate(in.saturate), rounding(host_rounding(in.rounding)) {}

    static int host_rounding(Rounding rounding) {
        switch (rounding) {
            case Rounding::Rm: return FE_DOWNWARD;
            case Rounding::Rp: return FE_UPWARD;
            case Rounding::Rz: return FE_TOWARDZERO;
            default: return FE_TONEAREST;
        }
    }
    float source(uint32_t bits) const {
        const float value = bit_cast<float>(bits);
        return flush ? flush_subnormal(value) : value;
    }
    uint32_t result(float value) const {
        if (flush) value = flush_subnormal(value);
        return float_bits(saturate ? saturate_unit(value) : value);
    }
};

// volatile: the compiler must not move the operation across the change of the rounding mode.
template <class Operation, int kNumSources>
void modified(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const Modified how(in);
    uint32_t* d = warp.words_of(in.results[0]);
    const uint32_t* sources[3] = {};
    for (int index = 0; index < kNumSources; index++) sources[index] = warp.words_of(in.sources[index]);
    std::fesetround(how.rounding);
    for (uint32_t rest = lane_mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        volatile float values[3] = {};
        for (int index = 0; index < kNumSources; index++) values[index] = how.source(sources[index][lane]);
        volatile float value;
        if constexpr (kNumSources == 1) value = Operation()(float{values[0]});
        else if constexpr (kNumSources == 2) value = Operation()(float{values[0]}, float{values[1]});
        else value = Operation()(float{values[0]}, float{values[1]}, float{values[2]});
        d[lane] = how.result(value);
    }
    std::fesetround(FE_TONEAREST);
}

struct Choice {
    Handler single, modified_single, doubled;
    bool can_round;  // otherwise than to the nearest, as far as the double covers it
};

template <class Operation>
constexpr Choice kUnary = {unary<float, Operation>, modified<Operation, 1>, unary<double, Operation>, true};
template <class Operation>
constexpr Choice kSingleUnary = {unary<float, Operation>, modified<Operation, 1>, nullptr, false};
template <class Operation>
constexpr Choice kBinary = {binary<float, Operation>, modified<Operation, 2>, binary<double, Operation>,
                            true};
template <class Operation>
constexpr Choice kTernary = {ternary<float, float, Operation>, modified<Operation, 3>,
                             ternary<double, double, Operation>, true};

template <bool kMaximum>
constexpr Choice kExtremum = {binary<float, Extremum<kMaximum>>, modified<Extremum<kMaximum>, 2>,
                              binary<double, Extremum<kMaximum>>, false};
constexpr Choice kNegate = {unary<uint32_t, Negate>, modified<NegateValue, 1>, unary<uint64_t, Negate>,
                            false};
constexpr Choice kAbsolute = {unary<uint32_t, Absolute>, modified<AbsoluteValue, 1>,
                              unary<uint64_t, Absolute>, false};

const std::unordered_map<std::string, Choice>& choices() {
    static const std::unordered_map<std::string, Choice> table = {
        {"add", kBinary<std::plus<>>},
        {"sub", kBinary<std::minus<>>},
        {"mul", kBinary<std::multiplies<>>},
        {"div", kBinary<std::divides<>>},
        {"fma", kTernary<FusedMultiplyAdd>},
        {"min", kExtremum<false>},
        {"max", kExtremum<true>},
        {"neg", kNegate},
        {"abs", kAbsolute},
        {"rcp", kUnary<Reciprocal>},
        {"sqrt", kUnary<SquareRoot>},
        {"rsqrt", kSingleUnary<ReciprocalSquareRoot>},
        {"ex2", kSingleUnary<Exp2>},
        {"lg2", kSingleUnary<Log2>},
        {"sin", kSingleUnary<Sine>},
        {"cos", kSingleUnary<Cosine>},
        {"tanh", kSingleUnary<Tanh>},
    };
    return table;
}

}  // namespace

Handler float_handler(const std::string& operation, const Instruction& in) {
    const auto found = choices().find(operation);
    if (found == choices().end()) return nullptr;
    const Choice& choice = found->second;
    const bool to_nearest = in.rounding == Rounding::None || in.rounding == Rounding::Rn;
    const bool directed =
        in.rounding == Rounding::Rz || in.rounding == Rounding::Rm || in.rounding == Rounding::Rp;
    if (!to_nearest && !(directed && choice.can_round)) return nullptr;
    const bool plain = to_nearest && !in.flush_subnormals && !in.saturate;
    if (in.type == Type::F64) return plain ? choice.doubled : nullptr;
    if (in.type != Type::F32) return nullptr;
    if (!plain) return choice.modified_single;
    if (operation == "fma" && settings().split_fma) return ternary<float, float, SplitMultiplyAdd>;
    return choice.single;
}

}  // namespace softgpu
