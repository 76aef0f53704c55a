// How the lanes of a warp come apart and together again. Lanes at the same instruction form a group; of
// several groups the one with the lowest counter runs, which makes lanes meet where the program's paths do.
#include <algorithm>
#include <climits>

#include "block.hpp"
#include "log.hpp"

namespace softgpu {
namespace {

constexpr uint64_t kMaxJumpsBack = uint64_t{1} << 28;

}  // namespace

void Block::run_warp(Warp& warp, uint64_t max_steps) {
    current_warp_ = warp.index;
    uint64_t steps_left = max_steps;
    while (!warp.groups.empty()) {
        const Pause pause = run_group(warp, take_lowest_group(warp), steps_left);
        if (pause == Pause::AtBarrier) warp.at_barrier = true;
        if (pause != Pause::Parted) break;
    }
    num_instructions_ += max_steps - steps_left;
}

// Merges all groups that stand where the lowest one does, the waiting ones among them.
LaneGroup Block::take_lowest_group(Warp& warp) {
    LaneGroup lowest{INT_MAX, 0, false};
    for (const LaneGroup& group : warp.groups) {
        if (!group.waiting) lowest.pc = std::min(lowest.pc, group.pc);
    }
    if (lowest.pc == INT_MAX) stuck(warp);
    const auto joins = [&](const LaneGroup& group) {
        if (group.pc != lowest.pc) return false;
        lowest.lane_mask |= group.lane_mask;
        return true;
    };
    warp.groups.erase(std::remove_if(warp.groups.begin(), warp.groups.end(), joins), warp.groups.end());
    return lowest;
}

void Block::stuck(const Warp& warp) {
    current_ = &function_.code[static_cast<size_t>(warp.groups.front().pc)];
    if (warp.exited != 0) {
        fault(Fault::LaunchFailed,
              concat("lanes wait here for lanes ", hex(warp.exited), ", which have ended (undefined)"));
    }
    fault(Fault::LaunchFailed, "lanes wait for each other at different instructions: the warp hangs");
}

// Runs until the group comes to where others stand, has to wait, or ends.
Block::Pause Block::run_group(Warp& warp, LaneGroup group, uint64_t& steps_left) {
    const Instruction* const code = function_.code.data();
    std::atomic<uint8_t>* const covered = function_.covered.get();
    int limit = INT_MAX;  // the lowest counter of the other groups that can run
    bool others_wait = false;
    for (const LaneGroup& other : warp.groups) {
        if (other.waiting) others_wait = true;
        else limit = std::min(limit, other.pc);
    }
    const auto meets_waiting = [&] {
        return std::any_of(warp.groups.begin(), warp.groups.end(),
                           [&](const LaneGroup& other) { return other.waiting && other.pc == group.pc; });
    };
    const auto park = [&](int pc, uint32_t lane_mask, bool waiting) {
        warp.groups.push_back({pc, lane_mask, waiting});
    };

    for (;;) {
        if (group.pc >= limit || (others_wait && meets_waiting())) {
            park(group.pc, group.lane_mask, false);
            return Pause::Parted;
        }
        if (steps_left == 0) {
            park(group.pc, group.lane_mask, false);
            return Pause::Interrupted;
        }
        steps_left--;
        const Instruction& in = code[group.pc];
        current_ = &in;
        if (!covered[group.pc].load(std::memory_order_relaxed)) {
            covered[group.pc].store(1, std::memory_order_relaxed);
        }
        uint32_t lane_mask = group.lane_mask;
        if (in.guard >= 0) {
            const uint32_t guard = warp.predicates[static_cast<size_t>(in.guard)];
            lane_mask &= in.guard_negated ? ~guard : guard;
        }

        if (in.step == Step::Branch) {
            branch(warp, group, in, lane_mask, limit);
            continue;
        }
        if (lane_mask == 0) {
            group.pc++;
            continue;
        }
        if (in.touches_sums) groups_->touch_sums(warp, in);
        switch (in.step) {
            case Step::Lanes: in.handler(*this, warp, in, lane_mask); break;
            case Step::MemberMask:
                if (!members_have_met(warp, in, lane_mask)) {
                    // The lanes that the guard excludes go on.
                    const uint32_t others = group.lane_mask & ~lane_mask;
                    if (others != 0) park(group.pc + 1, others, false);
                    park(group.pc, lane_mask, true);
                    return Pause::Parted;
                }
                in.handler(*this, warp, in, lane_mask);
                break;
            case Step::WholeWarp:
                if (!whole_warp_has_met(warp, group, lane_mask)) {
                    park(group.pc, lane_mask, true);
                    return Pause::Parted;
                }
                in.handler(*this, warp, in, lane_mask);
                break;
            case Step::GroupWait:
                if (!whole_warp_has_met(warp, group, lane_mask)) {
                    park(group.pc, lane_mask, true);
                    return Pause::Parted;
                }
                if (!groups_->can_wait(warp, in)) {
                    steps_left++;  // nothing has happened
                    park(group.pc, lane_mask, false);
                    return Pause::AtGroupWait;
                }
                in.handler(*this, warp, in, lane_mask);
                break;
            case Step::BlockBarrier:
                if (!warp_reaches_barrier(warp, group, lane_mask)) {
                    park(group.pc, lane_mask, true);
                    return Pause::Parted;
                }
                park(group.pc + 1, lane_mask, false);
                return Pause::AtBarrier;
            case Step::Exit:
                check_waited_at_end(warp, lane_mask);
                if (groups_) groups_->check_waited_at_end(warp);
                warp.exited |= lane_mask;
                group.lane_mask &= ~lane_mask;
                if (group.lane_mask == 0) return Pause::Parted;
                break;
            case Step::Branch: break;  // above
        }
        group.pc++;
    }
}

void Block::branch(Warp& warp, LaneGroup& group, const Instruction& in, uint32_t lane_mask, int& limit) {
    if (lane_mask != 0 && in.target <= group.pc && ++warp.num_jumps_back > kMaxJumpsBack) {
        fault(Fault::LaunchFailed, concat("a warp has jumped back ", kMaxJumpsBack, " times: it hangs"));
    }
    if (lane_mask == group.lane_mask) {
        group.pc = in.target;
        return;
    }
    group.pc++;
    if (lane_mask == 0) return;
    warp.groups.push_back({in.target, lane_mask, false});
    group.lane_mask &= ~lane_mask;
    limit = std::min(limit, in.target);
}

// Whether the lanes that the instruction names are all here.
bool Block::members_have_met(Warp& warp, const Instruction& in, uint32_t lane_mask) const {
    const uint32_t* named = warp.words_of(in.sources[0]);
    const uint32_t members = named[__builtin_ctz(lane_mask)];
    for (uint32_t rest = lane_mask; rest != 0; rest &= rest - 1) {
        if (named[__builtin_ctz(rest)] != members) {
            fault(Fault::LaunchFailed,
                  "lanes that meet here name different masks (undefined or not covered)");
        }
    }
    const auto wrong = [&](const char* what) {
        fault(Fault::LaunchFailed, concat("the mask ", hex(members), " ", what, " (undefined)"));
    };
    if ((lane_mask & ~members) != 0) wrong("does not name a lane that runs this");
    if ((members & ~warp.lanes) != 0) wrong("names lanes that do not exist");
    if ((members & warp.exited) != 0) wrong("names lanes that have ended");
    return members == lane_mask;
}

bool Block::whole_warp_has_met(const Warp& warp, const LaneGroup& group, uint32_t lane_mask) const {
    if (lane_mask == kAllLanes) return true;
    if (warp.exited != 0 || warp.lanes != kAllLanes || lane_mask != group.lane_mask) {
        fault(Fault::LaunchFailed, concat("an instruction of the whole warp is run by lanes ", hex(lane_mask),
                                          " only (undefined)"));
    }
    return false;
}

bool Block::warp_reaches_barrier(const Warp& warp, const LaneGroup& group, uint32_t lane_mask) const {
    if (lane_mask == warp.lanes) return true;
    if (lane_mask != group.lane_mask) {
        fault(Fault::LaunchFailed, "a barrier under a predicate that differs within the warp (undefined)");
    }
    if (warp.exited != 0) {
        fault(Fault::LaunchFailed,
              concat("lanes ", hex(warp.exited), " have ended before this barrier (undefined)"));
    }
    return false;
}

}  // namespace softgpu
