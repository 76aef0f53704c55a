// setp, selp and the logic of predicates.
#include <functional>
#include <unordered_map>

#include "block.hpp"
#include "float_values.hpp"
#include "handlers.hpp"
#include "warp.hpp"

namespace softgpu {
namespace {

using Eq = std::equal_to<>;
using Lt = std::less<>;
using Le = std::less_equal<>;
using Gt = std::greater<>;
using Ge = std::greater_equal<>;

// Unlike C++'s !=, not true of a NaN.
struct Ne {
    template <class T>
    bool operator()(T a, T b) const {
        return a < b || a > b;
    }
};

// Whether both are numbers.
struct Num {
    template <class T>
    bool operator()(T a, T b) const {
        return a == a && b == b;
    }
};

// The comparisons that end in u are true of a NaN.
template <class Opposite>
struct NotThe {
    template <class T>
    bool operator()(T a, T b) const {
        return !Opposite()(a, b);
    }
};

enum Combination : uint32_t { kAlone, kAnd, kOr, kXor };  // `immediate` of a setp

uint32_t combine(uint32_t combination, uint32_t compared, uint32_t other) {
    switch (combination) {
        case kAnd: return compared & other;
        case kOr: return compared | other;
        case kXor: return compared ^ other;
        default: return compared;
    }
}

template <class T, class Comparison, bool kFlush = false>
void set_predicate(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    const auto* b = lanes_of<T>(warp, in.sources[1]);
    const auto value = [](Element<T> element) {
        if constexpr (kFlush) return flush_subnormal(from_element<T>(element));
        else return from_element<T>(element);
    };
    uint32_t compared = 0;
    for (int lane = 0; lane < kWarpLanes; lane++) {
        compared |= uint32_t{Comparison()(value(a[lane]), value(b[lane]))} << lane;
    }
    const uint32_t other = in.immediate == kAlone ? 0 : warp.predicate(in.sources[2]);
    warp.set_predicate(in.results[0], combine(in.immediate, compared, other), lane_mask);
    if (in.num_results > 1) {
        warp.set_predicate(in.results[1], combine(in.immediate, ~compared, other), lane_mask);
    }
}

template <class T, bool kFlush = false>
Handler float_comparison(Compare compare) {
    switch (compare) {
        case Compare::Eq: return set_predicate<T, Eq, kFlush>;
        case Compare::Ne: return set_predicate<T, Ne, kFlush>;
        case Compare::Lt: return set_predicate<T, Lt, kFlush>;
        case Compare::Le: return set_predicate<T, Le, kFlush>;
        case Compare::Gt: return set_predicate<T, Gt, kFlush>;
        case Compare::Ge: return set_predicate<T, Ge, kFlush>;
        case Compare::Equ: return set_predicate<T, NotThe<Ne>, kFlush>;
        case Compare::Neu: return set_predicate<T, NotThe<Eq>, kFlush>;
        case Compare::Ltu: return set_predicate<T, NotThe<Ge>, kFlush>;
        case Compare::Leu: return set_predicate<T, NotThe<Gt>, kFlush>;
        case Compare::Gtu: return set_predicate<T, NotThe<Le>, kFlush>;
        case Compare::Geu: return set_predicate<T, NotThe<Lt>, kFlush>;
        case Compare::Num: return set_predicate<T, Num, kFlush>;
        case Compare::Nan: return set_predicate<T, NotThe<Num>, kFlush>;
    }
    return nullptr;
}

template <class T>
Handler integer_comparison(Compare compare) {
    switch (compare) {
        case Compare::Eq: return set_predicate<T, Eq>;
        case Compare::Ne: return set_predicate<T, Ne>;
        case Compare::Lt: return set_predicate<T, Lt>;
        case Compare::Le: return set_predicate<T, Le>;
        case Compare::Gt: return set_predicate<T, Gt>;
        case Compare::Ge: return set_predicate<T, Ge>;
        default: return nullptr;
    }
}

template <class Word>
void select(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    Word* d = lanes_of<Word>(warp, in.results[0]);
    const Word *a = lanes_of<Word>(warp, in.sources[0]), *b = lanes_of<Word>(warp, in.sources[1]);
    const uint32_t chosen = warp.predicate(in.sources[2]);
    each_lane(lane_mask, [=](int lane) { d[lane] = chosen >> lane & 1 ? a[lane] : b[lane]; });
}

template <class Operation>
void predicate_logic(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const uint32_t value = Operation()(warp.predicate(in.sources[0]), warp.predicate(in.sources[1]));
    warp.set_predicate(in.results[0], value, lane_mask);
}

template <bool kNegate>
void move_predicate(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const uint32_t value = warp.predicate(in.sources[0]);
    warp.set_predicate(in.results[0], kNegate ? ~value : value, lane_mask);
}

}  // namespace

Handler compare_handler(const Instruction& in) {
    if (in.flush_subnormals && in.type != Type::F32) return nullptr;
    switch (in.type) {
        case Type::F32:
            return in.flush_subnormals ? float_comparison<float, true>(in.compare)
                                       : float_comparison<float>(in.compare);
        case Type::F64: return float_comparison<double>(in.compare);
        case Type::B16:
        case Type::U16: return integer_comparison<uint16_t>(in.compare);
        case Type::S16: return integer_comparison<int16_t>(in.compare);
        case Type::B32:
        case Type::U32: return integer_comparison<uint32_t>(in.compare);
        case Type::S32: return integer_comparison<int32_t>(in.compare);
        case Type::B64:
        case Type::U64: return integer_comparison<uint64_t>(in.compare);
        case Type::S64: return integer_comparison<int64_t>(in.compare);
        default: return nullptr;
    }
}

Handler select_handler(Type type) {
    return bytes_of(type) == 8 ? select<uint64_t> : bytes_of(type) >= 2 ? select<uint32_t> : nullptr;
}

Handler predicate_handler(const std::string& operation) {
    static const std::unordered_map<std::string, Handler> handlers = {
        {"and", predicate_logic<std::bit_and<>>}, {"or", predicate_logic<std::bit_or<>>},
        {"xor", predicate_logic<std::bit_xor<>>}, {"not", move_predicate<true>},
        {"mov", move_predicate<false>},
    };
    const auto found = handlers.find(operation);
    return found == handlers.end() ? nullptr : found->second;
}

}  // namespace softgpu
