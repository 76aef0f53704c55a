#include "sum.hpp"

#include <cstring>

#include "codes.hpp"

namespace nccl_double {
namespace {

struct Float32 {
    using Bits = uint32_t;
    static float widen(Bits bits) {
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    static Bits round(float value) {
        Bits bits;
        memcpy(&bits, &value, sizeof bits);
        return bits;
    }
};

struct Bfloat16 {
    using Bits = uint16_t;
    static float widen(Bits bits) { return Float32::widen(uint32_t{bits} << 16); }
    // To the nearest, and to even in the middle. What is no number stays none.
    static Bits round(float value) {
        const uint32_t bits = Float32::round(value);
        if (value != value) return static_cast<Bits>(bits >> 16 | 0x40);
        return static_cast<Bits>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};

template <class Number>
std::vector<uint8_t> sum_of(const std::vector<Part>& parts) {
    using Bits = typename Number::Bits;
    std::vector<uint8_t> result(parts[0].data.size());
    for (size_t at = 0; at < result.size(); at += sizeof(Bits)) {
        const auto addend = [&](const Part& part) {
            Bits bits;
            memcpy(&bits, part.data.data() + at, sizeof bits);
            return Number::widen(bits);
        };
        float total = addend(parts[0]);
        for (size_t rank = 1; rank < parts.size(); rank++) total += addend(parts[rank]);
        const Bits rounded = Number::round(total);
        memcpy(result.data() + at, &rounded, sizeof rounded);
    }
    return result;
}

}  // namespace

std::vector<uint8_t> sum(const std::vector<Part>& parts) {
    return parts[0].type == kBfloat16 ? sum_of<Bfloat16>(parts) : sum_of<Float32>(parts);
}

}  // namespace nccl_double
