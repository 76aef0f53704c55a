#include "warp_groups.hpp"

#include <algorithm>

#include "block.hpp"
#include "handlers.hpp"
#include "log.hpp"

namespace softgpu {

WarpGroups::WarpGroups(Block& block, const Function& function, std::vector<Warp>& warps,
                       std::vector<uint8_t>& shared)
    : block_(block),
      function_(function),
      warps_(warps),
      shared_(shared),
      proxy_(shared.size(), warps.size() * kWarpLanes),
      slots_(static_cast<size_t>(function.num_words), -1) {
    int num_slots = 0;
    for (const auto& sum : function.sum_names) slots_[static_cast<size_t>(sum.first)] = num_slots++;
}

void WarpGroups::start() {
    proxy_.start();
    groups_.assign((warps_.size() + kGroupWarps - 1) / kGroupWarps, Group());
    for (Group& group : groups_) group.last_reader.assign(shared_.size() / kChunkBytes + 1, 0);
    members_.assign(warps_.size(), Member());
    for (Member& member : members_) member.registers.resize(function_.sum_names.size());
}

// All warps of a group have to have called the same.
void WarpGroups::end(const Warp& warp) {
    const Group& group = group_of(warp);
    const auto num_made = static_cast<size_t>(member_of(warp).num_calls - group.num_calls_made);
    if (num_made == group.calls.size()) return;
    block_.fault(Fault::LaunchFailed, concat("has ended without a call that others of its group made: ",
                                             describe(*group.calls[num_made].in), " (undefined)"));
}

void WarpGroups::barrier() {
    proxy_.barrier();
    for (size_t index = 0; index < warps_.size(); index++) {
        uint64_t& known = groups_[index / kGroupWarps].num_known_done;
        known = std::max(known, members_[index].num_waited);
    }
}

std::string WarpGroups::describe(const Instruction& in) const {
    const std::string text = function_.text_of(in);
    return concat("PTX line ", in.line, " `", text.substr(0, text.find(" {")), "`");
}

WarpGroups::Group& WarpGroups::group_of(const Warp& warp) { return groups_[warp.index / kGroupWarps]; }

// Calls.

void WarpGroups::call(Warp& warp, const Call& call) {
    const size_t first = warp.index / kGroupWarps * kGroupWarps;
    if (first + kGroupWarps > warps_.size()) {
        block_.fault(Fault::LaunchFailed,
                     concat("a group of ", warps_.size() - first, " warps: wgmma is for four (undefined)"));
    }
    Group& group = group_of(warp);
    Member& member = member_of(warp);
    const size_t ahead = static_cast<size_t>(member.num_calls - group.num_calls_made);
    if (ahead == group.calls.size()) group.calls.push_back(call);
    const Call& expected = group.calls[ahead];
    const auto differs = [&](const std::string& how) {
        block_.fault(Fault::LaunchFailed, concat("the warps of a group call different things: ", how, " (undefined)"));
    };
    if (expected.in != call.in) differs(concat("in the place of this another called ", describe(*expected.in)));
    if (expected.a != call.a) differs(concat("A is described by ", hex(call.a), ", by another warp ", hex(expected.a)));
    if (expected.b != call.b) differs(concat("B is described by ", hex(call.b), ", by another warp ", hex(expected.b)));
    if (expected.adds != call.adds) differs("scale-d is another");

    member.num_calls++;
    const auto has_made = [&](const Member& other) { return other.num_calls > group.num_calls_made; };
    const Member* members = &members_[first];
    if (std::all_of(members, members + kGroupWarps, has_made)) {
        group.calls.pop_front();
        group.num_calls_made++;
    }
}

void WarpGroups::fence(Warp& warp, const Instruction& in) {
    call(warp, {&in, 0, 0, false});
    member_of(warp).fence = ++now_;
}

void WarpGroups::commit(Warp& warp, const Instruction& in) {
    call(warp, {&in, 0, 0, false});
    Member& member = member_of(warp);
    member.products_at_commit.push_back(member.num_products);
}

uint64_t WarpGroups::num_products_awaited(const Warp& warp, const Instruction& in) const {
    const auto& products = members_[warp.index].products_at_commit;
    return products.size() > in.immediate ? products[products.size() - 1 - in.immediate] : 0;
}

bool WarpGroups::can_wait(const Warp& warp, const Instruction& in) const {
    const Member* members = &members_[warp.index / kGroupWarps * kGroupWarps];
    const uint64_t awaited = num_products_awaited(warp, in);
    return awaited == 0 || std::all_of(members, members + kGroupWarps, [&](const Member& member) {
               return member.num_products >= awaited;
           });
}

void WarpGroups::wait(Warp& warp, const Instruction& in) {
    call(warp, {&in, 0, 0, false});
    Member& member = member_of(warp);
    member.num_waited = std::max(member.num_waited, num_products_awaited(warp, in));
    finish(warp.index / kGroupWarps, member.num_waited);
}

void WarpGroups::check_waited_at_end(const Warp& warp) const {
    const Member& member = members_[warp.index];
    if (member.num_products == member.num_waited) return;
    block_.fault(Fault::LaunchFailed, concat("ends with ", member.num_products - member.num_waited,
                                             " products that it has not waited for (undefined)"));
}

// The registers of sums.

void WarpGroups::touch_sums(Warp& warp, const Instruction& in) {
    Member& member = member_of(warp);
    now_++;
    const auto touch = [&](const Operand& operand, const char* verb) {
        if (operand.file != RegisterFile::Words || slots_[static_cast<size_t>(operand.index)] < 0) return;
        SumRegister& state = state_of(member, operand.index);
        if (state.last_product > member.num_waited) {
            const Instruction& product = *group_of(warp).texts[static_cast<size_t>(state.last_product - 1)];
            block_.fault(Fault::LaunchFailed,
                         concat(verb, " ", name_of(operand.index), ", a sum of the product of ", describe(product),
                                ", which is under way until a wgmma.wait_group (undefined)"));
        }
        state.accessed = now_;
    };
    for (int index = 0; index < in.num_sources; index++) touch(in.sources[index], "reads");
    for (int index = 0; index < in.num_results; index++) touch(in.results[index], "writes");
}

void WarpGroups::check_sums(Member& member, const GroupProduct& product) {
    const auto wrong = [&](int index, const std::string& what) {
        block_.fault(Fault::LaunchFailed, concat(name_of(index), " ", what, " (undefined)"));
    };
    if (member.fence == 0) {
        block_.fault(Fault::LaunchFailed, "no wgmma.fence lies before the first product (undefined)");
    }
    for (const int index : product.sums) {
        SumRegister& state = state_of(member, index);
        if (state.accessed > member.fence) wrong(index, "was read or written after the last wgmma.fence");
        const bool is_other_shape = state.last_product != 0 && state.num_columns != product.num_columns;
        if (is_other_shape && state.last_product > member.num_waited) {
            wrong(index, "is a sum of a product of another shape that is under way");
        }
        if (is_other_shape && state.multiplied > member.fence) {
            wrong(index, "was a sum of a product of another shape after the last wgmma.fence");
        }
        state.multiplied = now_;
        state.last_product = member.num_products + 1;
        state.num_columns = product.num_columns;
    }
}

// Shared memory.

void WarpGroups::fence_proxy(const Warp& warp, uint32_t lane_mask) {
    for (; lane_mask != 0; lane_mask &= lane_mask - 1) {
        proxy_.fence(warp.index * kWarpLanes + static_cast<unsigned>(__builtin_ctz(lane_mask)));
    }
}

void WarpGroups::write(size_t offset, size_t num_bytes, unsigned warp, int lane) {
    for (size_t chunk = offset / kChunkBytes; chunk <= (offset + num_bytes - 1) / kChunkBytes; chunk++) {
        for (size_t index = 0; index < groups_.size(); index++) {
            const Group& group = groups_[index];
            const uint64_t reader = group.last_reader[chunk];
            if (reader <= group.num_known_done) continue;
            const bool is_member = warp / kGroupWarps == index;
            if (is_member && reader <= members_[warp].num_waited) continue;
            const size_t first = index * kGroupWarps;
            bool is_done = false;
            for (size_t other = first; other < first + kGroupWarps; other++) {
                is_done |= reader <= members_[other].num_waited;
            }
            const char* const why = is_done ? ": a warp of these has waited for it, but no barrier lies between that "
                                              "and this write (a race)"
                                            : ", which is under way until a wgmma.wait_group (a race)";
            block_.fault(Fault::Race,
                         concat("writes shared byte ", std::max(offset, chunk * kChunkBytes),
                                ", which is read by the product of warps ", first, " to ", first + kGroupWarps - 1,
                                " of ", describe(*group.texts[static_cast<size_t>(reader - 1)]), why),
                         lane);
        }
    }
    proxy_.write(offset, num_bytes, warp * kWarpLanes + static_cast<unsigned>(lane));
}

void WarpGroups::start_copy(size_t offset, size_t num_bytes, unsigned warp, int lane) {
    proxy_.start_copy(offset, num_bytes, warp * kWarpLanes + static_cast<unsigned>(lane));
}

void WarpGroups::check_matrix(Group& group, const MatrixDescriptor& matrix, const char* name, uint64_t number) {
    const std::string problem = matrix.problem();
    if (!problem.empty()) {
        block_.fault(Fault::LaunchFailed, concat("the descriptor of ", name, " ", problem, " (undefined)"));
    }
    for (unsigned chunk = 0; chunk < matrix.num_chunks(); chunk++) {
        const uint32_t offset = matrix.address(chunk) - kSharedBase;  // huge below the base
        if (offset >= shared_.size() || kChunkBytes > shared_.size() - offset) {
            block_.fault(Fault::IllegalAddress,
                         concat("the descriptor of ", name, " makes it read 16 bytes of shared memory at ",
                                static_cast<int32_t>(offset), ", outside the ", shared_.size(), " of the block"));
        }
        if (const auto race = proxy_.read(offset)) block_.fault(Fault::Race, concat(name, " ", *race));
        uint64_t& reader = group.last_reader[offset / kChunkBytes];
        reader = std::max(reader, number + 1);
    }
}

// Products.

void WarpGroups::multiply(Warp& warp, const Instruction& in) {
    uint64_t descriptors[2];
    for (int matrix = 0; matrix < 2; matrix++) {
        const uint64_t* lanes = warp.longs_of(in.sources[matrix]);
        const uint64_t* other = std::find_if(lanes, lanes + kWarpLanes, [&](uint64_t it) { return it != lanes[0]; });
        if (other != lanes + kWarpLanes) {
            block_.fault(Fault::LaunchFailed,
                         concat("the descriptor of ", matrix == 0 ? "A" : "B", " is ", hex(*other), " here and ",
                                hex(lanes[0]), " in lane 0 (undefined)"),
                         static_cast<int>(other - lanes));
        }
        descriptors[matrix] = lanes[0];
    }
    const uint32_t adds = warp.predicate(in.sources[2]);
    if (adds != 0 && adds != kAllLanes) {
        block_.fault(Fault::LaunchFailed, "scale-d is not the same in all lanes (undefined)");
    }
    call(warp, {&in, descriptors[0], descriptors[1], adds != 0});

    Group& group = group_of(warp);
    Member& member = member_of(warp);
    const GroupProduct& text = *in.product;
    const MatrixDescriptor a(descriptors[0], text.is_mn_major[0], 16 * kGroupWarps);
    const MatrixDescriptor b(descriptors[1], text.is_mn_major[1], text.num_columns);
    now_++;
    check_sums(member, text);
    check_matrix(group, a, "A", member.num_products);
    check_matrix(group, b, "B", member.num_products);
    if (member.num_products == group.num_products_done + group.products.size()) {
        const auto when = [&] { return static_cast<PendingProduct::When>((block_.random() >> 8) % 3); };
        group.products.push_back({&text, a, b, adds != 0, when(), when()});
        group.texts.push_back(&in);
    }
    group.products[static_cast<size_t>(member.num_products - group.num_products_done)].num_callers++;
    member.num_products++;
}

bool WarpGroups::has_pending() const {
    return std::any_of(groups_.begin(), groups_.end(), [](const Group& group) { return !group.products.empty(); });
}

bool WarpGroups::is_due(PendingProduct::When when) {
    return when == PendingProduct::When::AtOnce ||
           (when == PendingProduct::When::AtAnyTime && (block_.random() >> 8) % 4 == 0);
}

void WarpGroups::let_products_run() {
    for (size_t index = 0; index < groups_.size(); index++) {
        Group& group = groups_[index];
        for (PendingProduct& product : group.products) {
            if (product.num_callers < kGroupWarps) break;
            if (!product.has_read() && is_due(product.reads)) product.read(shared_.data());
        }
        while (!group.products.empty() && group.products.front().has_read() && is_due(group.products.front().writes)) {
            run_first(index);
        }
    }
}

void WarpGroups::run_first(size_t index) {
    Group& group = groups_[index];
    PendingProduct& product = group.products.front();
    if (!product.has_read()) product.read(shared_.data());
    product.write(&warps_[index * kGroupWarps]);
    group.products.pop_front();
    group.num_products_done++;
}

void WarpGroups::finish(size_t index, uint64_t num_products) {
    while (groups_[index].num_products_done < num_products) run_first(index);
}

}  // namespace softgpu
