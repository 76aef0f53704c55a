// One block of a launch at a time: its warps, its shared memory, and what its instructions may touch.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch.hpp"
#include "races.hpp"
#include "settings.hpp"
#include "warp.hpp"
#include "warp_groups.hpp"

namespace softgpu {

// Ends the launch.
struct FaultError {
    Fault fault;
    std::string text;
};

class Block {
 public:
    // `global_races` is null where nobody looks for them; `number` tells the host threads of a launch apart.
    Block(const Launch& launch, const std::vector<MemoryRange>& memory, GlobalRaces* global_races,
          unsigned number);

    // Throws FaultError.
    void run(uint64_t block_number);

    const std::vector<std::string>& notes() const { return notes_; }
    uint64_t num_instructions() const { return num_instructions_; }

    // For the functions that perform instructions. Memory is checked before it is given.
    uint8_t* global(uint64_t address, unsigned num_bytes, int lane, Access access);
    uint8_t* shared(uint32_t address, unsigned num_bytes, int lane, Access access);
    const uint8_t* parameters(uint64_t address, unsigned num_bytes, int lane);
    void check_aligned(uint64_t address, unsigned num_bytes, int lane);

    // An asynchronous copy is checked when it starts and once more when it arrives.
    void start_copy(Warp& warp, const PendingCopy& copy);
    void finish_copies(Warp& warp, uint32_t lane_mask, uint32_t num_pending_groups);

    // Only of a kernel that multiplies by wgmma.
    bool has_groups() const { return groups_.has_value(); }
    WarpGroups& groups() { return *groups_; }

    // A lane that ends without having waited for the launches before lets the next one overlap with them, too.
    void check_waited_at_end(const Warp& warp, uint32_t lane_mask) const;

    [[noreturn]] void fault(Fault kind, const std::string& what, int lane = -1) const;
    void note(const std::string& what, int lane = -1);
    uint64_t random();

 private:
    enum class Pause { Parted, AtBarrier, AtGroupWait, Interrupted };

    void start(uint64_t block_number);
    void set_special_registers(Warp& warp);
    bool run_round();
    uint64_t num_steps(uint64_t chance) const;
    [[noreturn]] void hang_at_group_wait();
    void release_barrier(size_t num_done, size_t num_waiting);
    void run_warp(Warp& warp, uint64_t max_steps);
    LaneGroup take_lowest_group(Warp& warp);
    Pause run_group(Warp& warp, LaneGroup group, uint64_t& steps_left);
    void branch(Warp& warp, LaneGroup& group, const Instruction& in, uint32_t lane_mask, int& limit);
    bool members_have_met(Warp& warp, const Instruction& in, uint32_t lane_mask) const;
    bool whole_warp_has_met(const Warp& warp, const LaneGroup& group, uint32_t lane_mask) const;
    bool warp_reaches_barrier(const Warp& warp, const LaneGroup& group, uint32_t lane_mask) const;
    [[noreturn]] void stuck(const Warp& warp);
    [[noreturn]] void misaligned(uint64_t address, unsigned num_bytes, int lane) const;
    void finish_copy(const PendingCopy& copy);
    void check_waited(Access access, int lane) const;
    void find_range(uint64_t address, unsigned num_bytes, int lane, Access access);
    void report_race(const std::optional<std::string>& race, int lane) const;
    std::string describe_place(int lane) const;

    const Launch& launch_;
    Function& function_;
    const std::vector<MemoryRange>& memory_;
    GlobalRaces* const global_races_;
    std::optional<SharedRaces> shared_races_;
    // What registers of a warp hold that may be read before they are written, by their index.
    std::vector<std::pair<int, uint32_t>> initial_words_;
    std::vector<std::pair<int, uint64_t>> initial_longs_;
    std::vector<Warp> warps_;
    std::vector<uint8_t> shared_;
    std::optional<WarpGroups> groups_;
    uint32_t block_idx_[3] = {};
    uint64_t block_number_ = 0;
    MemoryRange last_range_;
    uint64_t random_;
    uint64_t num_instructions_ = 0;
    std::vector<std::string> notes_;
    const Instruction* current_ = nullptr;  // and the warp that runs it, for messages
    unsigned current_warp_ = 0;
};

inline void Block::check_aligned(uint64_t address, unsigned num_bytes, int lane) {
    if (address & (num_bytes - 1)) misaligned(address, num_bytes, lane);
}

inline uint8_t* Block::global(uint64_t address, unsigned num_bytes, int lane, Access access) {
    if (launch_.overlaps) check_waited(access, lane);
    if (!last_range_.contains(address, num_bytes)) find_range(address, num_bytes, lane, access);
    if (global_races_ && access != Access::Atomic) {
        const auto block = static_cast<uint32_t>(block_number_);
        report_race(global_races_->access(access, address, num_bytes, block), lane);
    }
    return last_range_.host + (address - last_range_.base);
}

}  // namespace softgpu
