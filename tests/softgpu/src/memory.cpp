// Loads, stores, atomics and asynchronous copies.
#include <algorithm>
#include <functional>
#include <mutex>
#include <type_traits>

#include "block.hpp"
#include "handlers.hpp"
#include "warp.hpp"

namespace softgpu {
namespace {

// The address that each lane gives in sources[index].
class Addresses {
 public:
    Addresses(Warp& warp, const Instruction& in, int index)
        : offset_(static_cast<uint64_t>(in.offsets[index])) {
        const Operand& operand = in.sources[index];
        if (operand.bytes == 8) longs_ = warp.longs_of(operand);
        else words_ = warp.words_of(operand);
    }

    uint64_t operator()(int lane) const { return (longs_ ? longs_[lane] : words_[lane]) + offset_; }

 private:
    const uint64_t* longs_ = nullptr;
    const uint32_t* words_ = nullptr;
    uint64_t offset_;
};

// Where an address of the space lies in the host's memory, after all checks.
template <Space kSpace>
auto* locate(Block& block, uint64_t address, unsigned num_bytes, int lane, [[maybe_unused]] Access access) {
    if constexpr (kSpace == Space::Shared) {
        return block.shared(static_cast<uint32_t>(address), num_bytes, lane, access);
    } else if constexpr (kSpace == Space::Param) {
        return block.parameters(address, num_bytes, lane);
    } else {
        block.check_aligned(address, num_bytes, lane);
        return block.global(address, num_bytes, lane, access);
    }
}

template <class Body>
void for_lanes(uint32_t lane_mask, Body body) {
    for (; lane_mask != 0; lane_mask &= lane_mask - 1) body(__builtin_ctz(lane_mask));
}

template <class T, Space kSpace>
void load(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const Addresses addresses(warp, in, 0);
    const unsigned num_bytes = sizeof(T) * in.num_elems;
    for_lanes(lane_mask, [&](int lane) {
        const uint8_t* from = locate<kSpace>(block, addresses(lane), num_bytes, lane, Access::Read);
        for (unsigned elem = 0; elem < in.num_elems; elem++) {
            const Operand& result = in.results[elem];
            if (!result) continue;
            T value;
            memcpy(&value, from + elem * sizeof(T), sizeof(T));
            // A wider register is filled by the sign of the type.
            if (result.bytes == 8) warp.longs_of(result)[lane] = static_cast<uint64_t>(value);
            else warp.words_of(result)[lane] = static_cast<uint32_t>(value);
        }
    });
}

template <class T, Space kSpace>
void store(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const Addresses addresses(warp, in, 0);
    const unsigned num_bytes = sizeof(T) * in.num_elems;
    for_lanes(lane_mask, [&](int lane) {
        uint8_t* to = locate<kSpace>(block, addresses(lane), num_bytes, lane, Access::Write);
        for (unsigned elem = 0; elem < in.num_elems; elem++) {
            const Operand& source = in.sources[elem + 1];
            const auto value = source.bytes == 8 ? static_cast<T>(warp.longs_of(source)[lane])
                                                 : static_cast<T>(warp.words_of(source)[lane]);
            memcpy(to + elem * sizeof(T), &value, sizeof(T));
        }
    });
}

template <Space kSpace>
Handler load_of(Type type) {
    switch (type) {
        case Type::S8: return load<int8_t, kSpace>;
        case Type::S16: return load<int16_t, kSpace>;
        case Type::S32: return load<int32_t, kSpace>;
        default: break;
    }
    switch (bytes_of(type)) {
        case 1: return load<uint8_t, kSpace>;
        case 2: return load<uint16_t, kSpace>;
        case 4: return load<uint32_t, kSpace>;
        case 8: return load<uint64_t, kSpace>;
        default: return nullptr;
    }
}

template <Space kSpace>
Handler store_of(Type type) {
    switch (bytes_of(type)) {
        case 1: return store<uint8_t, kSpace>;
        case 2: return store<uint16_t, kSpace>;
        case 4: return store<uint32_t, kSpace>;
        case 8: return store<uint64_t, kSpace>;
        default: return nullptr;
    }
}

// Atomics. Other host threads run other blocks, so one happens at a time.

template <class T, class Change>
void change_atomically(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask, Change change) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const Addresses addresses(warp, in, 0);
    for_lanes(lane_mask, [&](int lane) {
        uint8_t* at = in.space == Space::Shared
                          ? locate<Space::Shared>(block, addresses(lane), sizeof(T), lane, Access::Atomic)
                          : locate<Space::Global>(block, addresses(lane), sizeof(T), lane, Access::Atomic);
        T old;
        memcpy(&old, at, sizeof old);
        const T value = change(old, lane);
        memcpy(at, &value, sizeof value);
        if (in.num_results > 0) lanes_of<T>(warp, in.results[0])[lane] = to_element<T>(old);
    });
}

template <class T, class Operation>
void atomic(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const auto* b = lanes_of<T>(warp, in.sources[1]);
    change_atomically<T>(block, warp, in, lane_mask,
                         [=](T old, int lane) { return T(Operation()(old, from_element<T>(b[lane]))); });
}

template <class T>
void compare_and_swap(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const T *expected = lanes_of<T>(warp, in.sources[1]), *replacement = lanes_of<T>(warp, in.sources[2]);
    change_atomically<T>(block, warp, in, lane_mask,
                         [=](T old, int lane) { return old == expected[lane] ? replacement[lane] : old; });
}

struct Minimum {
    template <class T>
    T operator()(T old, T b) const {
        return std::min(old, b);
    }
};

struct Maximum {
    template <class T>
    T operator()(T old, T b) const {
        return std::max(old, b);
    }
};

struct Exchange {
    template <class T>
    T operator()(T, T b) const {
        return b;
    }
};

struct Increment {
    uint32_t operator()(uint32_t old, uint32_t b) const { return old >= b ? 0 : old + 1; }
};

struct Decrement {
    uint32_t operator()(uint32_t old, uint32_t b) const { return old == 0 || old > b ? b : old - 1; }
};

template <class Operation>
Handler atomic_on_bits(Type type) {
    const unsigned num_bytes = is_float(type) ? 0 : bytes_of(type);
    return num_bytes == 4   ? atomic<uint32_t, Operation>
           : num_bytes == 8 ? atomic<uint64_t, Operation>
                            : nullptr;
}

template <class Operation>
Handler atomic_on_integers(Type type) {
    if (type == Type::S32) return atomic<int32_t, Operation>;
    return type == Type::S64 ? atomic<int64_t, Operation> : atomic_on_bits<Operation>(type);
}

Handler compare_and_swap_of(Type type) {
    return type == Type::B32   ? compare_and_swap<uint32_t>
           : type == Type::B64 ? compare_and_swap<uint64_t>
                               : nullptr;
}

// cp.async.

void copy_async(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const Addresses to(warp, in, 0), from(warp, in, 1);
    const Operand& source = in.sources[2];  // none, bytes to read, or the predicate that nothing is read
    for_lanes(lane_mask, [&](int lane) {
        uint32_t num_source_bytes = in.immediate;
        if (source.file == RegisterFile::Predicates) num_source_bytes *= ~warp.predicate(source) >> lane & 1;
        else if (source) num_source_bytes = warp.words_of(source)[lane];
        block.start_copy(warp, {static_cast<uint32_t>(lane), warp.num_commits[lane],
                                static_cast<uint32_t>(to(lane)), in.immediate, num_source_bytes, from(lane)});
    });
}

void copy_commit(Block&, Warp& warp, const Instruction&, uint32_t lane_mask) {
    for_lanes(lane_mask, [&](int lane) { warp.num_commits[lane]++; });
}

void copy_wait(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    block.finish_copies(warp, lane_mask, in.immediate);
}

// As a commit and a wait for all groups.
void copy_wait_all(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    copy_commit(block, warp, in, lane_mask);
    block.finish_copies(warp, lane_mask, 0);
}

}  // namespace

Handler load_handler(const Instruction& in) {
    switch (in.space) {
        case Space::Global: return load_of<Space::Global>(in.type);
        case Space::Shared: return load_of<Space::Shared>(in.type);
        case Space::Param: return load_of<Space::Param>(in.type);
    }
    return nullptr;
}

Handler store_handler(const Instruction& in) {
    return in.space == Space::Shared ? store_of<Space::Shared>(in.type) : store_of<Space::Global>(in.type);
}

Handler atomic_handler(const std::string& operation, const Instruction& in) {
    if (operation == "add" && in.type == Type::F32) return atomic<float, std::plus<>>;
    if (operation == "add" && in.type == Type::F64) return atomic<double, std::plus<>>;
    if (operation == "add") return atomic_on_bits<std::plus<>>(in.type);
    if (operation == "min") return atomic_on_integers<Minimum>(in.type);
    if (operation == "max") return atomic_on_integers<Maximum>(in.type);
    if (operation == "and") return atomic_on_bits<std::bit_and<>>(in.type);
    if (operation == "or") return atomic_on_bits<std::bit_or<>>(in.type);
    if (operation == "xor") return atomic_on_bits<std::bit_xor<>>(in.type);
    if (operation == "exch") return atomic_on_bits<Exchange>(in.type);
    if (operation == "cas") return compare_and_swap_of(in.type);
    if (operation == "inc" && in.type == Type::U32) return atomic<uint32_t, Increment>;
    if (operation == "dec" && in.type == Type::U32) return atomic<uint32_t, Decrement>;
    return nullptr;
}

Handler copy_async_handler() { return copy_async; }
Handler copy_commit_handler() { return copy_commit; }
Handler copy_wait_handler() { return copy_wait; }
Handler copy_wait_all_handler() { return copy_wait_all; }

}  // namespace softgpu
