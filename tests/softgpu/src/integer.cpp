// Arithmetic, logic, shifts and bit fields of integers.
#include <algorithm>
#include <climits>
#include <functional>
#include <type_traits>
#include <unordered_map>

#include "block.hpp"
#include "handlers.hpp"
#include "lanewise.hpp"

namespace softgpu {
namespace {

template <class T>
constexpr unsigned kBits = sizeof(T) * CHAR_BIT;

// The type of twice the bits.
template <class T, class Of16, class Of32, class Of64>
using BySize = std::conditional_t<sizeof(T) == 2, Of16, std::conditional_t<sizeof(T) == 4, Of32, Of64>>;
template <class T>
using Wider = std::conditional_t<std::is_signed_v<T>, BySize<T, int32_t, int64_t, __int128>,
                                 BySize<T, uint32_t, uint64_t, unsigned __int128>>;

// Operations that wrap are done on unsigned values, as those of C++ on signed ones must not overflow; 16 bits
// go through `unsigned`, as C++ would make them a signed int.
template <class T>
using Wrapping = std::conditional_t<sizeof(T) < 4, unsigned, std::make_unsigned_t<T>>;

struct Multiply {
    template <class T>
    T operator()(T a, T b) const {
        return T(Wrapping<T>(a) * Wrapping<T>(b));
    }
};

struct Minimum {
    template <class T>
    T operator()(T a, T b) const {
        return std::min(a, b);
    }
};

struct Maximum {
    template <class T>
    T operator()(T a, T b) const {
        return std::max(a, b);
    }
};

struct Negate {
    template <class T>
    T operator()(T a) const {
        return T(0 - Wrapping<T>(a));
    }
};

struct Absolute {
    template <class T>
    T operator()(T a) const {
        return a < 0 ? Negate()(a) : a;
    }
};

struct MultiplyHigh {
    template <class T>
    T operator()(T a, T b) const {
        return T(Wider<T>(a) * Wider<T>(b) >> kBits<T>);
    }
};

struct MultiplyWide {
    template <class T>
    Wider<T> operator()(T a, T b) const {
        return Wider<T>(a) * Wider<T>(b);
    }
};

struct MultiplyAdd {
    template <class T>
    T operator()(T a, T b, T c) const {
        return T(Wrapping<T>(a) * Wrapping<T>(b) + Wrapping<T>(c));
    }
};

struct MultiplyHighAdd {
    template <class T>
    T operator()(T a, T b, T c) const {
        return T(Wrapping<T>(MultiplyHigh()(a, b)) + Wrapping<T>(c));
    }
};

struct MultiplyWideAdd {
    template <class T>
    Wider<T> operator()(T a, T b, Wider<T> c) const {
        return Wider<T>(Wrapping<Wider<T>>(MultiplyWide()(a, b)) + Wrapping<Wider<T>>(c));
    }
};

// Counts beyond the width shift everything out.
struct ShiftLeft {
    template <class T>
    T operator()(T a, uint32_t count) const {
        return count >= kBits<T> ? T(0) : T(Wrapping<T>(a) << count);
    }
};

struct ShiftRight {
    template <class T>
    T operator()(T a, uint32_t count) const {
        if (std::is_signed_v<T>) return T(a >> std::min(count, kBits<T> - 1));
        return count >= kBits<T> ? T(0) : T(a >> count);
    }
};

// shf: the upper or lower word of b:a, shifted.
template <bool kLeft, bool kWrap>
struct FunnelShift {
    uint32_t operator()(uint32_t a, uint32_t b, uint32_t count) const {
        const uint32_t n = kWrap ? count & 31 : std::min(count, 32u);
        const uint64_t both = uint64_t{b} << 32 | a;
        return static_cast<uint32_t>(kLeft ? both << n >> 32 : both >> n);
    }
};

struct PermuteBytes {
    uint32_t operator()(uint32_t a, uint32_t b, uint32_t selectors) const {
        const uint64_t bytes = uint64_t{b} << 32 | a;
        uint32_t result = 0;
        for (unsigned index = 0; index < 4; index++) {
            const uint32_t selector = selectors >> (4 * index) & 15;
            uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (selector & 7))) & 0xff;
            if (selector & 8) byte = byte & 0x80 ? 0xff : 0;  // its sign alone
            result |= byte << (8 * index);
        }
        return result;
    }
};

struct CountOnes {
    uint32_t operator()(uint32_t a) const { return static_cast<uint32_t>(__builtin_popcount(a)); }
    uint32_t operator()(uint64_t a) const { return static_cast<uint32_t>(__builtin_popcountll(a)); }
};

struct CountLeadingZeros {
    uint32_t operator()(uint32_t a) const { return a ? static_cast<uint32_t>(__builtin_clz(a)) : 32; }
    uint32_t operator()(uint64_t a) const { return a ? static_cast<uint32_t>(__builtin_clzll(a)) : 64; }
};

struct ReverseBits {
    uint32_t operator()(uint32_t a) const {
        uint32_t result = 0;
        for (int bit = 0; bit < 32; bit++) result |= (a >> bit & 1) << (31 - bit);
        return result;
    }
};

// bfe: `length` bits from `position` on, filled with the field's sign if T has one.
template <class T>
T extract_bits(T value, uint32_t position, uint32_t length) {
    using Unsigned = std::make_unsigned_t<T>;
    const uint32_t last = std::min(position + length - 1, kBits<T> - 1);
    const bool sign = std::is_signed_v<T> && length > 0 && (Unsigned(value) >> last & 1);
    Unsigned result = 0;
    for (uint32_t bit = 0; bit < kBits<T>; bit++) {
        const bool inside = bit < length && position + bit < kBits<T>;
        result |= Unsigned(inside ? Unsigned(value) >> (position + bit) & 1 : sign) << bit;
    }
    return T(result);
}

template <class T>
void bit_field_extract(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    auto* d = lanes_of<T>(warp, in.results[0]);
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    const uint32_t *position = warp.words_of(in.sources[1]), *length = warp.words_of(in.sources[2]);
    each_lane(lane_mask, [=](int lane) {
        d[lane] =
            to_element<T>(extract_bits(from_element<T>(a[lane]), position[lane] & 0xff, length[lane] & 0xff));
    });
}

// bfi: the low bits of the first source, put into the second.
template <class T>
void bit_field_insert(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    auto* d = lanes_of<T>(warp, in.results[0]);
    const auto *a = lanes_of<T>(warp, in.sources[0]), *b = lanes_of<T>(warp, in.sources[1]);
    const uint32_t *position = warp.words_of(in.sources[2]), *length = warp.words_of(in.sources[3]);
    each_lane(lane_mask, [=](int lane) {
        const uint32_t first = position[lane] & 0xff, count = length[lane] & 0xff;
        T result = b[lane];
        for (uint32_t bit = 0; bit < count && first + bit < kBits<T>; bit++) {
            result = (result & ~(T{1} << (first + bit))) | (a[lane] >> bit & 1) << (first + bit);
        }
        d[lane] = result;
    });
}

// `immediate` is the truth table: bit 4 a + 2 b + c is the result for the bits a, b and c.
void logic3(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    uint32_t* d = warp.words_of(in.results[0]);
    const uint32_t *a = warp.words_of(in.sources[0]), *b = warp.words_of(in.sources[1]);
    const uint32_t* c = warp.words_of(in.sources[2]);
    const uint32_t table = in.immediate;
    each_lane(lane_mask, [=](int lane) {
        uint32_t result = 0;
        for (unsigned row = 0; row < 8; row++) {
            const uint32_t term = (row & 4 ? a[lane] : ~a[lane]) & (row & 2 ? b[lane] : ~b[lane]) &
                                  (row & 1 ? c[lane] : ~c[lane]);
            result |= table >> row & 1 ? term : 0;
        }
        d[lane] = result;
    });
}

template <class T, bool kRemainder>
void divide(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    auto* d = lanes_of<T>(warp, in.results[0]);
    const auto *a = lanes_of<T>(warp, in.sources[0]), *b = lanes_of<T>(warp, in.sources[1]);
    for (uint32_t rest = lane_mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        const T dividend = from_element<T>(a[lane]), divisor = from_element<T>(b[lane]);
        T result;
        if (divisor == 0) {
            block.note("integer division by zero (unspecified)", lane);
            result = kRemainder ? dividend : T(-1);
        } else if (std::is_signed_v<T> && divisor == T(-1)) {
            result = kRemainder ? T(0) : Negate()(dividend);  // the smallest number over -1 would trap here
        } else {
            result = T(kRemainder ? dividend % divisor : dividend / divisor);
        }
        d[lane] = to_element<T>(result);
    }
}

// Type tables. Where the sign makes no difference, the signed type is done as the unsigned one.
template <template <class> class Make>
Handler by_type(Type type) {
    switch (type) {
        case Type::U16: return Make<uint16_t>::handler;
        case Type::S16: return Make<int16_t>::handler;
        case Type::U32: return Make<uint32_t>::handler;
        case Type::S32: return Make<int32_t>::handler;
        case Type::U64: return Make<uint64_t>::handler;
        case Type::S64: return Make<int64_t>::handler;
        default: return nullptr;
    }
}

Type unsigned_of(Type type) {
    switch (bytes_of(type)) {
        case 2: return Type::U16;
        case 4: return Type::U32;
        case 8: return Type::U64;
        default: return Type::None;
    }
}

template <class Operation>
struct Unary {
    template <class T>
    struct Make {
        static constexpr Handler handler = unary<T, Operation>;
    };
};

template <class Operation>
struct Binary {
    template <class T>
    struct Make {
        static constexpr Handler handler = binary<T, Operation>;
    };
};

template <class Operation>
struct Ternary {
    template <class T>
    struct Make {
        static constexpr Handler handler = ternary<T, T, Operation>;
    };
};

template <class Operation>
struct Counted {
    template <class T>
    struct Make {
        static constexpr Handler handler = counted<T, Operation>;
    };
};

template <bool kRemainder>
struct Divide {
    template <class T>
    struct Make {
        static constexpr Handler handler = divide<T, kRemainder>;
    };
};

// mul.wide and mad.wide exist for 16 and 32 bits.
Handler multiply_wide(Type type) {
    switch (type) {
        case Type::U16: return binary<uint16_t, MultiplyWide>;
        case Type::S16: return binary<int16_t, MultiplyWide>;
        case Type::U32: return binary<uint32_t, MultiplyWide>;
        case Type::S32: return binary<int32_t, MultiplyWide>;
        default: return nullptr;
    }
}

Handler multiply_wide_add(Type type) {
    switch (type) {
        case Type::U16: return ternary<uint16_t, uint32_t, MultiplyWideAdd>;
        case Type::S16: return ternary<int16_t, int32_t, MultiplyWideAdd>;
        case Type::U32: return ternary<uint32_t, uint64_t, MultiplyWideAdd>;
        case Type::S32: return ternary<int32_t, int64_t, MultiplyWideAdd>;
        default: return nullptr;
    }
}

Handler bit_field_extract_of(Type type) {
    switch (type) {
        case Type::U32: return bit_field_extract<uint32_t>;
        case Type::S32: return bit_field_extract<int32_t>;
        case Type::U64: return bit_field_extract<uint64_t>;
        case Type::S64: return bit_field_extract<int64_t>;
        default: return nullptr;
    }
}

// Operations of 32 bits only, of 32 or 64, and of any width: `{name, {32 bits, 64 bits}}`.
Handler bits_handler(const std::string& operation, Type type) {
    struct Pair {
        Handler words, longs;
    };
    static const std::unordered_map<std::string, Pair> handlers = {
        {"popc", {unary<uint32_t, CountOnes>, unary<uint64_t, CountOnes>}},
        {"clz", {unary<uint32_t, CountLeadingZeros>, unary<uint64_t, CountLeadingZeros>}},
        {"bfi", {bit_field_insert<uint32_t>, bit_field_insert<uint64_t>}},
        {"brev", {unary<uint32_t, ReverseBits>, nullptr}},
        {"prmt", {ternary<uint32_t, uint32_t, PermuteBytes>, nullptr}},
        {"lop3", {logic3, nullptr}},
        {"shf.l.wrap", {ternary<uint32_t, uint32_t, FunnelShift<true, true>>, nullptr}},
        {"shf.l.clamp", {ternary<uint32_t, uint32_t, FunnelShift<true, false>>, nullptr}},
        {"shf.r.wrap", {ternary<uint32_t, uint32_t, FunnelShift<false, true>>, nullptr}},
        {"shf.r.clamp", {ternary<uint32_t, uint32_t, FunnelShift<false, false>>, nullptr}},
    };
    const auto found = handlers.find(operation);
    if (found == handlers.end()) return nullptr;
    return type == Type::B32 ? found->second.words : type == Type::B64 ? found->second.longs : nullptr;
}

}  // namespace

Handler integer_handler(const std::string& operation, const Instruction& in) {
    if (in.saturate || in.flush_subnormals || in.rounding != Rounding::None) return nullptr;
    const Type type = in.type, bits = unsigned_of(type);
    if (operation == "add") return by_type<Binary<std::plus<>>::Make>(bits);
    if (operation == "sub") return by_type<Binary<std::minus<>>::Make>(bits);
    if (operation == "mul") return by_type<Binary<Multiply>::Make>(bits);
    if (operation == "mul.hi") return by_type<Binary<MultiplyHigh>::Make>(type);
    if (operation == "mul.wide") return multiply_wide(type);
    if (operation == "mad") return by_type<Ternary<MultiplyAdd>::Make>(bits);
    if (operation == "mad.hi") return by_type<Ternary<MultiplyHighAdd>::Make>(type);
    if (operation == "mad.wide") return multiply_wide_add(type);
    if (operation == "div") return by_type<Divide<false>::Make>(type);
    if (operation == "rem") return by_type<Divide<true>::Make>(type);
    if (operation == "min") return by_type<Binary<Minimum>::Make>(type);
    if (operation == "max") return by_type<Binary<Maximum>::Make>(type);
    if (operation == "neg") return is_signed(type) ? by_type<Unary<Negate>::Make>(type) : nullptr;
    if (operation == "abs") return is_signed(type) ? by_type<Unary<Absolute>::Make>(type) : nullptr;
    if (operation == "not") return by_type<Unary<std::bit_not<>>::Make>(bits);
    if (operation == "and") return by_type<Binary<std::bit_and<>>::Make>(bits);
    if (operation == "or") return by_type<Binary<std::bit_or<>>::Make>(bits);
    if (operation == "xor") return by_type<Binary<std::bit_xor<>>::Make>(bits);
    if (operation == "shl") return by_type<Counted<ShiftLeft>::Make>(bits);
    if (operation == "shr") return by_type<Counted<ShiftRight>::Make>(is_signed(type) ? type : bits);
    if (operation == "bfe") return bit_field_extract_of(type);
    return bits_handler(operation, type);
}

}  // namespace softgpu
