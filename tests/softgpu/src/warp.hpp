// The state of a warp, and loops over its lanes.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "program.hpp"

namespace softgpu {

constexpr int kWarpLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// Lanes that stand at the same instruction. A waiting group runs only together with lanes that come to it.
struct LaneGroup {
    int pc;
    uint32_t lane_mask;
    bool waiting;
};

// A cp.async that has not arrived.
struct PendingCopy {
    uint32_t lane, group;
    uint32_t shared_address, num_bytes, num_source_bytes;
    uint64_t global_address;
};

struct Warp {
    unsigned index = 0;
    // The 32 lanes of a register lie together; of a predicate they are the bits of a word.
    std::vector<uint32_t> predicates;
    std::unique_ptr<uint32_t[]> words;
    std::unique_ptr<uint64_t[]> longs;
    std::vector<LaneGroup> groups;
    std::vector<PendingCopy> copies;
    uint32_t num_commits[kWarpLanes] = {};
    uint32_t lanes = 0, exited = 0, waited = 0;  // waited: for the launches before
    uint64_t num_jumps_back = 0;
    bool at_barrier = false;

    bool is_done() const { return lanes == exited; }

    uint32_t* words_of(const Operand& operand) {
        return &words[static_cast<size_t>(operand.index) * kWarpLanes];
    }
    uint64_t* longs_of(const Operand& operand) {
        return &longs[static_cast<size_t>(operand.index) * kWarpLanes];
    }

    // One bit a lane; an immediate is the same for all.
    uint32_t predicate(const Operand& operand) {
        const bool is_register = operand.file == RegisterFile::Predicates;
        const uint32_t bits =
            is_register ? predicates[static_cast<size_t>(operand.index)] : *words_of(operand);
        return operand.negated ? ~bits : bits;
    }

    void set_predicate(const Operand& operand, uint32_t bits, uint32_t lane_mask) {
        if (!operand) return;
        uint32_t& target = predicates[static_cast<size_t>(operand.index)];
        target = (target & ~lane_mask) | (bits & lane_mask);
    }
};

// The whole warp is a loop that the compiler can vectorise: a lane reads and writes its own elements only.
template <class Body>
inline void each_lane(uint32_t lane_mask, Body body) {
    if (lane_mask == kAllLanes) {
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
        for (int lane = 0; lane < kWarpLanes; lane++) body(lane);
    } else {
        for (; lane_mask != 0; lane_mask &= lane_mask - 1) body(__builtin_ctz(lane_mask));
    }
}

// A lane's element of the register file, for a value of type T. A narrow value fills it by its own sign;
// readers look at the bits of their type only.
template <class T>
using Element = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
inline T from_element(Element<T> element) {
    if constexpr (std::is_floating_point_v<T>) return bit_cast<T>(element);
    else return static_cast<T>(element);
}

template <class T>
inline Element<T> to_element(T value) {
    if constexpr (std::is_same_v<T, float>) return float_bits(value);
    else if constexpr (std::is_same_v<T, double>) return bit_cast<uint64_t>(value);
    else return static_cast<Element<T>>(value);
}

template <class T>
inline Element<T>* lanes_of(Warp& warp, const Operand& operand) {
    if constexpr (sizeof(T) == 8) return warp.longs_of(operand);
    else return warp.words_of(operand);
}

}  // namespace softgpu
