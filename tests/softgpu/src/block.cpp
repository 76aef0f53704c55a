#include "block.hpp"

#include <algorithm>
#include <map>

#include "log.hpp"

namespace softgpu {
namespace {

constexpr size_t kMaxNotes = 20;

const char* verb(Access access) {
    return access == Access::Read ? "reads" : access == Access::Write ? "writes" : "changes";
}

uint32_t dynamic_shared_address(const Function& function) {
    uint32_t address = kSharedBase + function.static_shared_bytes;
    const uint32_t align = function.dynamic_shared_align;
    if (function.uses_dynamic_shared) address = (address + align - 1) / align * align;
    return address;
}

// What nothing has written reads as a NaN, and as an address of nobody.
template <class T>
std::vector<std::pair<int, T>> initial_registers(const std::vector<int>& live,
                                                 const std::vector<std::pair<int, T>>& constants,
                                                 int dynamic_shared, T dynamic_shared_address) {
    std::map<int, T> values;
    for (const int index : live) values[index] = static_cast<T>(~T{0});
    for (const auto& [index, value] : constants) values[index] = value;
    if (dynamic_shared >= 0) values[dynamic_shared] = dynamic_shared_address;
    return {values.begin(), values.end()};
}

template <class T>
void set_registers(const std::vector<std::pair<int, T>>& values, T* file) {
    for (const auto& [index, value] : values) {
        std::fill_n(&file[static_cast<size_t>(index) * kWarpLanes], kWarpLanes, value);
    }
}

}  // namespace

Block::Block(const Launch& launch, const std::vector<MemoryRange>& memory, GlobalRaces* global_races,
             unsigned number)
    : launch_(launch),
      function_(*launch.function),
      memory_(memory),
      global_races_(global_races),
      random_(settings().seed * 0x9E3779B97F4A7C15u + number + 1) {
    const uint32_t dynamic_shared = dynamic_shared_address(function_);
    shared_.resize(dynamic_shared + launch_.dynamic_shared_bytes - kSharedBase);
    if (settings().races != Races::Ignored) shared_races_.emplace(shared_.size());

    const InitialValues& initial = function_.initial;
    initial_words_ =
        initial_registers(function_.live_words, initial.words, initial.dynamic_shared_word, dynamic_shared);
    initial_longs_ = initial_registers(function_.live_longs, initial.longs, initial.dynamic_shared_long,
                                       uint64_t{dynamic_shared});

    const unsigned num_threads = launch_.block[0] * launch_.block[1] * launch_.block[2];
    warps_.resize((num_threads + kWarpLanes - 1) / kWarpLanes);
    for (unsigned index = 0; index < warps_.size(); index++) {
        const unsigned num_lanes = num_threads - index * kWarpLanes;
        warps_[index].index = index;
        // Kernels have thousands of registers, and a small grid touches few of them: nothing is written in advance.
        warps_[index].words.reset(new uint32_t[static_cast<size_t>(function_.num_words) * kWarpLanes]);
        warps_[index].longs.reset(new uint64_t[static_cast<size_t>(function_.num_longs) * kWarpLanes]);
        warps_[index].lanes = num_lanes >= kWarpLanes ? kAllLanes : (1u << num_lanes) - 1;
    }
    if (function_.uses_warp_groups) groups_.emplace(*this, function_, warps_, shared_);
}

uint64_t Block::random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    return random_ ^= random_ << 17;
}

void Block::set_special_registers(Warp& warp) {
    for (const InitialValues::Special& special : function_.initial.specials) {
        uint32_t* lanes = &warp.words[static_cast<size_t>(special.index) * kWarpLanes];
        for (uint32_t lane = 0; lane < kWarpLanes; lane++) {
            const uint32_t thread = warp.index * kWarpLanes + lane;
            const uint32_t* block = launch_.block;
            const uint32_t thread_idx[3] = {thread % block[0], thread / block[0] % block[1],
                                            thread / block[0] / block[1]};
            switch (special.which) {
                case SpecialRegister::ThreadIdx: lanes[lane] = thread_idx[special.axis]; break;
                case SpecialRegister::BlockDim: lanes[lane] = block[special.axis]; break;
                case SpecialRegister::BlockIdx: lanes[lane] = block_idx_[special.axis]; break;
                case SpecialRegister::GridDim: lanes[lane] = launch_.grid[special.axis]; break;
                case SpecialRegister::Lane: lanes[lane] = lane; break;
            }
        }
    }
}

void Block::start(uint64_t block_number) {
    const uint32_t* grid = launch_.grid;
    block_number_ = block_number;
    block_idx_[0] = static_cast<uint32_t>(block_number % grid[0]);
    block_idx_[1] = static_cast<uint32_t>(block_number / grid[0] % grid[1]);
    block_idx_[2] = static_cast<uint32_t>(block_number / grid[0] / grid[1]);
    std::fill(shared_.begin(), shared_.end(), 0xff);
    if (shared_races_) shared_races_->barrier();
    if (groups_) groups_->start();
    for (Warp& warp : warps_) {
        // Of what the block before has left, only these could be seen.
        set_registers(initial_words_, warp.words.get());
        set_registers(initial_longs_, warp.longs.get());
        warp.predicates.assign(static_cast<size_t>(function_.num_predicates), 0xa5a5a5a5u);
        warp.groups.assign(1, {0, warp.lanes, false});
        warp.copies.clear();
        std::fill(std::begin(warp.num_commits), std::end(warp.num_commits), 0);
        warp.exited = 0;
        warp.waited = 0;
        warp.num_jumps_back = 0;
        warp.at_barrier = false;
        set_special_registers(warp);
    }
}

void Block::run(uint64_t block_number) {
    start(block_number);
    while (run_round()) {
    }
    for (const Warp& warp : warps_) {
        current_warp_ = warp.index;
        if (!warp.copies.empty()) note("the kernel ends with copies that nothing waited for");
        if (groups_) groups_->end(warp);
    }
}

// Mostly to the next barrier, at times for a stretch that ends anywhere; shorter while products are under way.
uint64_t Block::num_steps(uint64_t chance) const {
    const bool to_barrier = warps_.size() == 1 || chance % 4 != 0;
    if (groups_ && groups_->has_pending()) return 1 + (chance >> 8) % (to_barrier ? 400 : 40);
    return to_barrier ? ~uint64_t{0} : 1 + (chance >> 8) % 400;
}

// Lets every warp run for a while, beginning with any of them. False when all have ended.
bool Block::run_round() {
    const size_t num_warps = warps_.size();
    const uint64_t num_instructions_before = num_instructions_;
    const size_t first = num_warps > 1 ? random() % num_warps : 0;
    size_t num_done = 0, num_waiting = 0;
    for (size_t index = 0; index < num_warps; index++) {
        Warp& warp = warps_[(first + index) % num_warps];
        if (warp.is_done()) num_done++;
        else if (warp.at_barrier) num_waiting++;
        else {
            if (groups_) groups_->let_products_run();
            run_warp(warp, num_steps(random()));
        }
    }
    if (num_done == num_warps) return false;
    if (num_done + num_waiting == num_warps) release_barrier(num_done, num_waiting);
    else if (num_instructions_ == num_instructions_before) hang_at_group_wait();
    return true;
}

void Block::hang_at_group_wait() {
    for (const Warp& warp : warps_) {
        if (warp.is_done() || warp.at_barrier) continue;
        current_warp_ = warp.index;
        current_ = &function_.code[static_cast<size_t>(warp.groups.front().pc)];
        fault(Fault::LaunchFailed,
              "waits for products that not all warps of the group have called, nor can call: the warp hangs");
    }
    fault(Fault::LaunchFailed, "no warp can run");
}

// The PTX ISA has all threads of the block take part in bar.sync. Hardware since Volta counts only those that
// have not ended; a kernel should not live on it.
void Block::release_barrier(size_t num_done, size_t num_waiting) {
    for (Warp& warp : warps_) {
        if (num_done > 0 && warp.at_barrier) {
            current_warp_ = warp.index;
            current_ = &function_.code[static_cast<size_t>(warp.groups.front().pc) - 1];
            fault(Fault::LaunchFailed, concat(num_done, " warps of the block have ended while ", num_waiting,
                                              " wait at a barrier (undefined)"));
        }
        warp.at_barrier = false;
    }
    if (shared_races_) shared_races_->barrier();
    if (groups_) groups_->barrier();
}

// Memory.

void Block::check_waited(Access access, int lane) const {
    if (warps_[current_warp_].waited >> lane & 1) return;
    fault(Fault::LaunchFailed,
          concat(verb(access), " global memory before griddepcontrol.wait, in a launch that may overlap with those ",
                 "before it (a race)"),
          lane);
}

void Block::check_waited_at_end(const Warp& warp, uint32_t lane_mask) const {
    const uint32_t missing = lane_mask & ~warp.waited;
    if (!launch_.overlaps || missing == 0) return;
    fault(Fault::LaunchFailed,
          "ends without griddepcontrol.wait: the next launch does not wait for those before this one",
          __builtin_ctz(missing));
}

void Block::find_range(uint64_t address, unsigned num_bytes, int lane, Access access) {
    auto above =
        std::upper_bound(memory_.begin(), memory_.end(), address,
                         [](uint64_t wanted, const MemoryRange& range) { return wanted < range.base; });
    const std::string what = concat(verb(access), " ", num_bytes, " bytes at ", hex(address), ", which ");
    if (above == memory_.begin()) fault(Fault::IllegalAddress, what + "is below all allocations", lane);
    const MemoryRange& range = *--above;
    if (!range.contains(address, num_bytes)) {
        fault(Fault::IllegalAddress,
              concat(what, "is in no allocation (the one before is ", hex(range.base), "..",
                     hex(range.base + range.num_bytes), ")"),
              lane);
    }
    last_range_ = range;
}

void Block::misaligned(uint64_t address, unsigned num_bytes, int lane) const {
    fault(Fault::Misaligned,
          concat("an access of ", num_bytes, " bytes at ", hex(address), ", which is misaligned"), lane);
}

uint8_t* Block::shared(uint32_t address, unsigned num_bytes, int lane, Access access) {
    const uint32_t offset = address - kSharedBase;  // huge below the base
    if (offset >= shared_.size() || num_bytes > shared_.size() - offset) {
        fault(Fault::IllegalAddress,
              concat(verb(access), " ", num_bytes, " bytes of shared memory at ",
                     static_cast<int32_t>(offset), ", outside the ", shared_.size(), " of the block"),
              lane);
    }
    check_aligned(address, num_bytes, lane);
    if (shared_races_ && access != Access::Atomic) {
        report_race(shared_races_->access(access, offset, num_bytes, current_warp_), lane);
    }
    if (groups_ && access != Access::Read) groups_->write(offset, num_bytes, current_warp_, lane);
    return &shared_[offset];
}

const uint8_t* Block::parameters(uint64_t address, unsigned num_bytes, int lane) {
    const uint64_t offset = address - kParameterBase;
    const size_t size = launch_.parameters.size();
    if (offset >= size || num_bytes > size - offset) {
        fault(Fault::IllegalAddress,
              concat("reads ", num_bytes, " bytes of parameters at ", static_cast<int64_t>(offset),
                     ", outside the ", size, " there are"),
              lane);
    }
    check_aligned(offset, num_bytes, lane);
    return &launch_.parameters[offset];
}

void Block::report_race(const std::optional<std::string>& race, int lane) const {
    if (race) fault(Fault::Race, *race, lane);
}

void Block::start_copy(Warp& warp, const PendingCopy& copy) {
    const int lane = static_cast<int>(copy.lane);
    if (copy.num_source_bytes > copy.num_bytes) {
        fault(Fault::LaunchFailed,
              concat("cp.async of ", copy.num_bytes, " bytes reads ", copy.num_source_bytes, " (undefined)"),
              lane);
    }
    shared(copy.shared_address, copy.num_bytes, lane, Access::Write);
    if (groups_) groups_->start_copy(copy.shared_address - kSharedBase, copy.num_bytes, warp.index, lane);
    check_aligned(copy.global_address, copy.num_bytes, lane);
    if (copy.num_source_bytes > 0) global(copy.global_address, copy.num_source_bytes, lane, Access::Read);
    warp.copies.push_back(copy);
}

void Block::finish_copy(const PendingCopy& copy) {
    const int lane = static_cast<int>(copy.lane);
    uint8_t* to = shared(copy.shared_address, copy.num_bytes, lane, Access::Write);
    std::fill_n(to, copy.num_bytes, 0);
    if (copy.num_source_bytes == 0) return;
    std::copy_n(global(copy.global_address, copy.num_source_bytes, lane, Access::Read), copy.num_source_bytes,
                to);
}

// cp.async.wait_group: all groups of a lane but its newest ones.
void Block::finish_copies(Warp& warp, uint32_t lane_mask, uint32_t num_pending_groups) {
    size_t num_kept = 0;
    for (const PendingCopy& copy : warp.copies) {
        const bool arrives = (lane_mask >> copy.lane & 1) != 0 &&
                             uint64_t{copy.group} + num_pending_groups < warp.num_commits[copy.lane];
        if (arrives) finish_copy(copy);
        else warp.copies[num_kept++] = copy;
    }
    warp.copies.resize(num_kept);
}

// Messages.

std::string Block::describe_place(int lane) const {
    std::string place = concat("kernel ", function_.name, ", block (", block_idx_[0], ", ", block_idx_[1],
                               ", ", block_idx_[2], "), warp ", current_warp_);
    if (lane >= 0) {
        const uint32_t* block = launch_.block;
        const uint32_t thread = current_warp_ * kWarpLanes + static_cast<uint32_t>(lane);
        place += concat(", thread (", thread % block[0], ", ", thread / block[0] % block[1], ", ",
                        thread / block[0] / block[1], ")");
    }
    if (current_) {
        place += concat(", PTX line ", current_->line, " `", function_.text_of(*current_), "`");
        const std::string source = function_.source_of(*current_);
        if (!source.empty()) place += " from " + source;
    }
    return place;
}

void Block::fault(Fault kind, const std::string& what, int lane) const {
    throw FaultError{kind, concat(describe_place(lane), ": ", what)};
}

void Block::note(const std::string& what, int lane) {
    if (notes_.size() >= kMaxNotes) return;
    const std::string text = concat(describe_place(lane), ": ", what);
    if (std::find(notes_.begin(), notes_.end(), text) == notes_.end()) notes_.push_back(text);
}

}  // namespace softgpu
