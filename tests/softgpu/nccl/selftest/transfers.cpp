// What arrives where, and sums.
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "selftest.hpp"

namespace selftest {
namespace {

float value(int rank, size_t at) { return static_cast<float>(1000 * rank) + static_cast<float>(at); }

std::vector<float> values(int rank, size_t count) {
    std::vector<float> all;
    for (size_t at = 0; at < count; at++) all.push_back(value(rank, at));
    return all;
}

void gather(size_t count) {
    const Process& me = self();
    const auto ranks = static_cast<size_t>(me.num_ranks);
    std::vector<float> expected;
    for (int rank = 0; rank < me.num_ranks; rank++) {
        const std::vector<float> part = values(rank, count);
        expected.insert(expected.end(), part.begin(), part.end());
    }
    const Buffer own(values(me.rank, count)), all(ranks * count * 4);
    check_equal("ncclAllGather", all_gather(own.at(), all.at(), count, kFloat32), 0);
    check(all.values<float>() == expected, "all parts are gathered");
    std::vector<float> in_place(ranks * count, -1.0f);
    const auto offset = static_cast<size_t>(me.rank) * count;
    std::copy_n(values(me.rank, count).begin(), count, in_place.begin() + static_cast<std::ptrdiff_t>(offset));
    const Buffer shared(in_place);
    check_equal("ncclAllGather in place", all_gather(shared.at(offset * 4), shared.at(), count, kFloat32), 0);
    check(shared.values<float>() == expected, "parts are gathered in place");
}

void spread() {
    const Process& me = self();
    for (int root = 0; root < me.num_ranks; root++) {
        const Buffer own(values(me.rank, 9)), other(9 * 4);
        const void* from = me.rank == root ? own.at() : nullptr;
        check_equal("ncclBroadcast", broadcast(from, other.at(), 9, kFloat32, root), 0);
        check(other.values<float>() == values(root, 9), "the root's values arrive everywhere");
        check_equal("ncclBroadcast in place", broadcast(own.at(), own.at(), 36, kUint8, root), 0);
        check(own.values<float>() == values(root, 9), "the root's bytes arrive in place");
    }
}

// Sums that depend on their order: what is lost beside the large numbers, and what stays after they are gone.
void add_singles() {
    const Process& me = self();
    const float large[] = {1e8f, 3.0f, -1e8f, 0.5f, 0.25f};
    const auto addend = [&](int rank, size_t at) { return large[(static_cast<size_t>(rank) + at) % 5]; };
    std::vector<float> own, expected;
    for (size_t at = 0; at < 7; at++) {
        own.push_back(addend(me.rank, at));
        float sum = addend(0, at);
        for (int rank = 1; rank < me.num_ranks; rank++) sum += addend(rank, at);
        expected.push_back(sum);
    }
    const Buffer from(own), to(7 * 4);
    check_equal("ncclAllReduce", all_reduce(from.at(), to.at(), 7, kFloat32), 0);
    check(to.values<float>() == expected, "sums are in the order of ranks");
    check_equal("ncclAllReduce in place", all_reduce(from.at(), from.at(), 7, kFloat32), 0);
    check(from.values<float>() == expected, "sums are taken in place");
}

// Of other sizes from each rank to each, this one included.
void all_to_all() {
    const Process& me = self();
    const auto count = [](int from, int to) { return static_cast<size_t>(3 * from + to + 1); };
    std::vector<std::unique_ptr<Buffer>> sent, received;
    check_equal("ncclGroupStart", call("ncclGroupStart"), 0);
    check_equal("a group within it", call("ncclGroupStart"), 0);
    for (int peer = me.num_ranks - 1; peer >= 0; peer--) {
        sent.push_back(std::make_unique<Buffer>(values(10 * me.rank + peer, count(me.rank, peer))));
        received.push_back(std::make_unique<Buffer>(4 * count(peer, me.rank)));
        check_equal("ncclSend", send(sent.back()->at(), count(me.rank, peer), kFloat32, peer), 0);
        check_equal("ncclRecv", receive(received.back()->at(), count(peer, me.rank), kFloat32, peer), 0);
    }
    check_equal("the inner ncclGroupEnd", call("ncclGroupEnd"), 0);
    check_equal("ncclGroupEnd", call("ncclGroupEnd"), 0);
    for (int peer = 0; peer < me.num_ranks; peer++) {
        const auto& buffer = *received[static_cast<size_t>(me.num_ranks - 1 - peer)];
        check(buffer.values<float>() == values(10 * peer + me.rank, count(peer, me.rank)), "what a rank sent arrives");
    }
}

void two_messages_to_one_rank() {
    const Process& me = self();
    const Buffer buffer(std::vector<float>{value(me.rank, 0), value(me.rank, 1), -1, -1});
    const int next = (me.rank + 1) % me.num_ranks, last = (me.rank + me.num_ranks - 1) % me.num_ranks;
    call("ncclGroupStart");
    send(buffer.at(0), 1, kFloat32, next);
    receive(buffer.at(12), 1, kFloat32, last);
    send(buffer.at(4), 1, kFloat32, next);
    receive(buffer.at(8), 1, kFloat32, last);
    check_equal("ncclGroupEnd", call("ncclGroupEnd"), 0);
    const std::vector<float> got = buffer.values<float>();
    check(got[3] == value(last, 0) && got[2] == value(last, 1), "messages arrive in the order they are sent in");
}

// Everything that is queued on the stream before a call, and what is queued after it.
void in_the_stream() {
    const Process& me = self();
    const auto ranks = static_cast<size_t>(me.num_ranks);
    const Buffer own(4), all(4 * ranks), after(4 * ranks);
    call("cuMemsetD8Async", own.address(), static_cast<unsigned char>(me.rank + 1), size_t{4}, me.stream);
    check_equal("ncclAllGather", all_gather(own.at(), all.at(), 4, kUint8), 0);
    call("cuMemcpyDtoDAsync_v2", after.address(), all.address(), 4 * ranks, me.stream);
    const std::vector<uint8_t> bytes = after.values<uint8_t>();
    for (size_t rank = 0; rank < ranks; rank++) {
        check_equal("work before and after a call", bytes[4 * rank], static_cast<int64_t>(rank) + 1);
    }
}

void of_nothing() {
    check_equal("a gather of nothing", all_gather(nullptr, nullptr, 0, kFloat32), 0);
    check_equal("a sum of nothing", all_reduce(nullptr, nullptr, 0, kFloat32), 0);
    check_equal("a broadcast of nothing", broadcast(nullptr, nullptr, 0, kFloat32, 1), 0);
    check_equal("an empty group, started", call("ncclGroupStart"), 0);
    check_equal("and ended", call("ncclGroupEnd"), 0);
}

void collective_calls_in_a_group() {
    const Process& me = self();
    const Buffer ones(std::vector<float>{1, 1}), roots(values(me.rank, 2)), itself(4);
    call("ncclGroupStart");
    all_reduce(ones.at(), ones.at(), 2, kFloat32);
    receive(itself.at(), 1, kFloat32, me.rank);
    broadcast(roots.at(), roots.at(), 2, kFloat32, 1);
    send(itself.at(), 1, kFloat32, me.rank);
    check(ones.values<float>()[0] == 1, "nothing happens before the group ends");
    check_equal("ncclGroupEnd", call("ncclGroupEnd"), 0);
    check(ones.values<float>()[1] == static_cast<float>(me.num_ranks), "a sum in a group");
    check(roots.values<float>() == values(1, 2), "a broadcast in a group");
}

void everything() {
    int version = 0;
    check_equal("ncclGetVersion", call("ncclGetVersion", &version), 0);
    check_equal("the version", version, 22304);
    join();
    gather(5);
    spread();
    add_singles();
    all_to_all();
    two_messages_to_one_rank();
    in_the_stream();
    of_nothing();
    collective_calls_in_a_group();
    gather(size_t{1} << 19);
    check_equal("nothing has failed", async_error(), 0);
    leave();
}

// Two ranks of three, while the first is elsewhere.
void pairs() {
    join();
    if (self().rank == 0) usleep(100'000);
    const Buffer buffer(values(self().rank, 3));
    if (self().rank == 1) check_equal("ncclSend outside a group", send(buffer.at(), 3, kFloat32, 2), 0);
    if (self().rank == 2) {
        check_equal("ncclRecv outside a group", receive(buffer.at(), 3, kFloat32, 1), 0);
        check(buffer.values<float>() == values(1, 3), "what was sent arrives");
    }
    gather(1);
}

void early_end_of_rank_0() {
    pairs();
    // The others still need what rank 0 does for them.
    if (self().rank > 0) {
        usleep(100'000);
        const Buffer buffer(4);
        const int peer = 3 - self().rank;
        const bool sends = self().rank == 1;
        const int code = sends ? send(buffer.at(), 1, kFloat32, peer) : receive(buffer.at(), 1, kFloat32, peer);
        check_equal("a call after rank 0's end", code, 0);
    }
    leave();
}

void two_communicators() {
    join();
    void* const first = self().communicator;
    check_equal("another at the same address", join_as(self().num_ranks - 1 - self().rank, self().num_ranks), 0);
    check(first != self().communicator, "two communicators are two");
    {
        const Buffer byte(1), bytes(2);
        check_equal("on the second", all_gather(byte.at(), bytes.at(), 1, kUint8), 0);
        check_equal("ncclCommDestroy", call("ncclCommDestroy", self().communicator), 0);
        self().communicator = first;
        check_equal("on the first", all_gather(byte.at(), bytes.at(), 1, kUint8), 0);
    }
    leave();
}

void late_start() {
    if (self().rank == 0) usleep(200'000);
    join();
    leave();
}

void counted_calls() {
    join();
    {
        const Buffer buffer(64);
        const int rank = self().rank;
        all_gather(buffer.at(), buffer.at(), 5, kUint8);      // 5 to each of two others
        broadcast(buffer.at(), buffer.at(), 3, kFloat32, 1);  // 12 to each, by rank 1
        all_reduce(buffer.at(), buffer.at(), 2, kFloat32);    // 8
        call("ncclGroupStart");
        if (rank == 2) send(buffer.at(), 7, kUint8, 0);  // 7
        if (rank == 0) receive(buffer.at(), 7, kUint8, 2);
        send(buffer.at(), 9, kUint8, rank);
        receive(buffer.at(), 9, kUint8, rank);
        call("ncclGroupEnd");
    }
    leave();
}

void see_counts(const std::string& log, const std::string& report) {
    check(log.empty(), "nothing is said");
    const auto tell = [&](const std::string& line) { check(has(report, line + "\n"), line); };
    const std::string collective = "\"calls\":{\"ncclAllGather\":1,\"ncclAllReduce\":1,\"ncclBroadcast\":1,";
    const std::string group = "\"ncclCommDestroy\":1,\"ncclCommInitRank\":1,\"ncclGetUniqueId\":1,\"ncclGroupEnd\":1,"
                              "\"ncclGroupStart\":1,";
    const std::string all = ",\"ranks\":3," + collective + group, end = ",\"destroyed\":true}";
    tell("{\"rank\":0" + all + "\"ncclRecv\":2,\"ncclSend\":1},\"bytes_sent\":18" + end);
    tell("{\"rank\":1" + all + "\"ncclRecv\":1,\"ncclSend\":1},\"bytes_sent\":42" + end);
    tell("{\"rank\":2" + all + "\"ncclRecv\":1,\"ncclSend\":2},\"bytes_sent\":25" + end);
    check_equal("lines of the report", std::count(report.begin(), report.end(), '\n'), 3);
}

}  // namespace

std::vector<Case> transfer_cases() {
    std::vector<Case> cases;
    for (const int num_ranks : {2, 3, 5}) {
        cases.push_back({"transfers of " + std::to_string(num_ranks), num_ranks, everything});
    }
    cases.push_back({"pairs, and an early end of rank 0", 3, early_end_of_rank_0});
    cases.push_back({"two communicators", 2, two_communicators});
    cases.push_back({"a late start", 3, late_start});
    Case counting = {"counted calls", 3, counted_calls};
    counting.after = see_counts;
    cases.push_back(counting);
    return cases;
}

}  // namespace selftest
