// Calls that do not fit together or are not allowed: every rank has to hear of them.
#include <cstdlib>

#include "selftest.hpp"

namespace selftest {
namespace {

// What ranks do with a buffer of theirs, which gives a code.
using Act = std::function<int(const Buffer& buffer)>;

// The ranks do this, one each. All have to end with the code, and afterwards, too.
Case mismatch(const std::string& name, const std::vector<Act>& acts, const std::string& told,
              int code = kInvalidUsage) {
    const auto body = [acts, told, code] {
        join();
        {
            const Buffer buffer(256);
            check_equal("the call", acts[static_cast<size_t>(self().rank)](buffer), code);
            check(has(last_error(), told), "the last line is that of the call: " + last_error());
            check_equal("the communicator has failed", async_error(), code);
            check_equal("a call afterwards", all_gather(buffer.at(), buffer.at(), 1, kUint8), code);
        }
        leave();
    };
    return {name, static_cast<int>(acts.size()), body, {}, {}, tells(told)};
}

Act gathers(size_t count, int type = kUint8) {
    return [=](const Buffer& buffer) { return all_gather(buffer.at(), buffer.at(), count, type); };
}

Act broadcasts(size_t count, int root) {
    return [=](const Buffer& buffer) { return broadcast(buffer.at(), buffer.at(), count, kUint8, root); };
}

Act sends(size_t count, int peer, int type = kUint8) {
    return [=](const Buffer& buffer) { return send(buffer.at(), count, type, peer); };
}

Act receives(size_t count, int peer, int type = kUint8) {
    return [=](const Buffer& buffer) { return receive(buffer.at(), count, type, peer); };
}

Act in_group(const std::vector<Act>& acts) {
    return [=](const Buffer& buffer) {
        call("ncclGroupStart");
        for (const Act& act : acts) act(buffer);
        return call("ncclGroupEnd");
    };
}

const std::string kViolation = "nccl double: violation: ", kLimit = "nccl double: limit: ";

std::vector<Case> mismatches() {
    const Act gather = gathers(4);
    const Act from_null = [](const Buffer& buffer) { return all_gather(nullptr, buffer.at(), 1, kUint8); };
    const Act to_null = [](const Buffer&) { return receive(nullptr, 1, kUint8, 0); };
    const Act product = [](const Buffer& it) { return all_reduce(it.at(), it.at(), 1, kFloat32, kProd); };
    const Act byte_sum = [](const Buffer& it) { return all_reduce(it.at(), it.at(), 1, kUint8); };
    return {
        mismatch("a gather and a broadcast", {gather, broadcasts(4, 0)},
                 kViolation + "rank 0 calls ncclAllGather of 4 ncclUint8 as its collective call 1, rank 1 calls "
                              "ncclBroadcast of 4 ncclUint8 from rank 0 as its collective call 1"),
        mismatch("one rank's count", {gather, gather, gathers(5)}, "rank 2 calls ncclAllGather of 5 ncclUint8"),
        mismatch("one rank's type", {gathers(4, kFloat32), gathers(4, kBfloat16)}, "ncclAllGather of 4 ncclBfloat16"),
        mismatch("two roots", {broadcasts(4, 0), broadcasts(4, 1)}, "ncclBroadcast of 4 ncclUint8 from rank 1"),
        mismatch("a longer message", {sends(5, 1), receives(4, 0)},
                 kViolation + "rank 0 calls ncclSend of 5 ncclUint8 to rank 1, which calls ncclRecv of 4 ncclUint8"),
        mismatch("a shorter message", {receives(4, 1), sends(3, 0)}, "ncclSend of 3 ncclUint8 to rank 0, which"),
        mismatch("a message of another type", {sends(1, 1, kFloat32), receives(4, 0)}, "ncclSend of 1 ncclFloat32"),
        mismatch("two that send", {sends(4, 1), sends(4, 0)},
                 kViolation + "calls wait for each other for ever: rank 0 in ncclSend of 4 ncclUint8 to rank 1; "
                              "rank 1 in ncclSend of 4 ncclUint8 to rank 0"),
        mismatch("three that receive, in a ring", {receives(1, 1), receives(1, 2), receives(1, 0)},
                 "rank 2 in ncclRecv of 1 ncclUint8 from rank 0"),
        mismatch("a message and a gather", {sends(4, 1), gather}, "rank 1 in ncclAllGather of 4 ncclUint8"),
        mismatch("a message too many", {in_group({sends(1, 1), sends(2, 1)}), [=](const Buffer& buffer) {
                                            check_equal("one is received", receives(1, 0)(buffer), 0);
                                            return gather(buffer);
                                        }},
                 "rank 0 in ncclSend of 2 ncclUint8 to rank 1"),
        mismatch("a message to itself that it does not receive", {in_group({sends(1, 0)}), gather},
                 "rank 0 in ncclSend of 1 ncclUint8 to rank 0"),
        mismatch("no source", {gather, from_null, gather}, "rank 1: ncclAllGather: the source is a null pointer",
                 kInvalidArgument),
        mismatch("no destination", {gather, to_null}, "rank 1: ncclRecv: the destination is a null pointer",
                 kInvalidArgument),
        mismatch("a rank that is none", {sends(1, 2), receives(1, 0)},
                 kViolation + "rank 0: ncclSend: there is no rank 2 among 2", kInvalidArgument),
        mismatch("a root that is none", {gather, broadcasts(1, -1)}, "there is no rank -1 among 2", kInvalidArgument),
        mismatch("a group with such a call", {in_group({gather, sends(1, 7)}), gather}, "there is no rank 7 among 2",
                 kInvalidArgument),
        mismatch("another type", {gather, gathers(1, kInt32)},
                 kLimit + "rank 1: ncclAllGather: data type 2 is not covered", kInvalidArgument),
        mismatch("another reduction", {product, gather}, "reduction 1 of ncclFloat32 is not covered", kInvalidArgument),
        mismatch("a sum of bytes", {byte_sum, gather}, "reduction 0 of ncclUint8 is not covered", kInvalidArgument),
        mismatch("more than there is room for", {gathers(size_t{1} << 40), gather}, kLimit, kInvalidArgument),
    };
}

// What the driver refuses to one rank.
void no_memory() {
    join();
    {
        const Buffer buffer(256);
        const bool is_first = self().rank == 0;
        const int code = all_gather(buffer.at(is_first ? 4096 : 0), buffer.at(), 1, kUint8);
        check_equal("the call", code, is_first ? kUnhandledCudaError : kRemoteError);
    }
    leave();
}

void destroyed() {
    join();
    {
        const Buffer buffer(8);
        check_equal("ncclCommDestroy", call("ncclCommDestroy", self().communicator), 0);
        check_equal("a call afterwards", all_gather(buffer.at(), buffer.at(), 1, kUint8), kInvalidArgument);
        check(has(last_error(), "ncclAllGather: there is no such communicator"), last_error());
        check_equal("ncclCommDestroy again", call("ncclCommDestroy", self().communicator), kInvalidArgument);
        int code = 0;
        check_equal("its error", call("ncclCommGetAsyncError", self().communicator, &code), kInvalidArgument);
    }
    close_gpu();
}

void early_leaver() {
    join();
    if (self().rank == 1) return leave();
    {
        const Buffer buffer(8);
        check_equal("a call without one rank", all_gather(buffer.at(), buffer.at(), 1, kUint8), kInvalidUsage);
    }
    leave();
}

void groups() {
    open_gpu();
    check_equal("an end without a start", call("ncclGroupEnd"), kInvalidUsage);
    check(has(last_error(), "ncclGroupEnd: no group was started"), last_error());
    close_gpu();
}

void no_address() {
    UniqueId id = {};
    unsetenv("NCCL_COMM_ID");
    check_equal("ncclGetUniqueId", call("ncclGetUniqueId", &id), kInvalidUsage);
}

void other_ids() {
    UniqueId id = {};
    setenv("NCCL_COMM_ID", "here", 1);
    check_equal("an address that is none", call("ncclGetUniqueId", &id), kInvalidArgument);
    check_equal("an id that is none", call("ncclCommInitRank", &self().communicator, 2, id, 0), kInvalidArgument);
}

void other_rank() {
    check_equal("a rank that is none", join_as(2, 2), kInvalidArgument);
    check(has(last_error(), "rank 2 of 2"), last_error());
}

void two_counts() {
    const int num_ranks = self().rank == 1 ? 3 : 2;
    check_equal("ncclCommInitRank", join_as(self().rank, num_ranks), kInvalidUsage);
}

void one_rank_twice() {
    check_equal("ncclCommInitRank", join_as(self().rank == 0 ? 0 : 1, 3), kInvalidUsage);
}

}  // namespace

std::vector<Case> misuse_cases() {
    std::vector<Case> cases = mismatches();
    const auto add = [&](const std::string& name, int num_ranks, void (*body)(), const std::string& told) {
        cases.push_back({name, num_ranks, body, {}, {}, tells(told)});
    };
    add("memory that is none", 2, no_memory,
        "nccl double: lost: rank 0: ncclAllGather: cuMemcpyDtoHAsync_v2 gives 1");
    add("a destroyed communicator", 2, destroyed, kViolation + "ncclCommDestroy: there is no");
    add("a rank that leaves early", 3, early_leaver, "but rank 1 has destroyed its communicator");
    add("no group", 1, groups, kViolation + "ncclGroupEnd");
    add("a rank beyond the last", 1, other_rank, kViolation + "ncclCommInitRank: rank 2 of 2");
    add("two counts of ranks", 2, two_counts, "rank 1 joins as one of 3 ranks, rank 0 as one of 2");
    add("a rank taken twice", 3, one_rank_twice, "two processes join as rank 1");
    add("no address", 1, no_address, "NCCL_COMM_ID is not set");
    add("an address that is none", 1, other_ids, "`here` is not HOST:PORT");
    return cases;
}

}  // namespace selftest
