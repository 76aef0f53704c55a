// Faults on demand, and ranks that are gone.
#include <unistd.h>

#include <csignal>
#include <thread>

#include "selftest.hpp"

namespace selftest {
namespace {

constexpr useconds_t kAWhile = 300'000;

using Environment = std::vector<std::pair<std::string, std::string>>;

Environment failing(const std::string& what) { return {{"NCCL_DOUBLE_FAIL", what}}; }

int gather(const Buffer& buffer) { return all_gather(buffer.at(), buffer.at(), 1, kUint8); }

int exchange(const Buffer& buffer) {
    const int peer = 1 - self().rank;
    call("ncclGroupStart");
    send(buffer.at(), 1, kUint8, peer);
    receive(buffer.at(1), 1, kUint8, peer);
    return call("ncclGroupEnd");
}

// The third gather of rank 1 gives 6, whereupon it ends; the others hear that it is gone.
void third_gather() {
    join();
    {
        const Buffer buffer(8);
        for (int calls = 1; calls <= 2; calls++) check_equal("ncclAllGather", gather(buffer), 0);
        check_equal("the third", gather(buffer), kRemoteError);
        if (self().rank == 1) {
            check_equal("the communicator is sound", async_error(), 0);
            return;
        }
        check_equal("the communicator has failed", async_error(), kRemoteError);
    }
    leave();
}

void see_failed_gather(const std::string& log, const std::string& report) {
    check(has(log, "nccl double: injected: call 3 of ncclAllGather at rank 1 gives 6\n"), "the fault is told");
    check(has(log, "nccl double: lost: rank 1 is gone without a word\n"), "and what comes of it");
    check(has(report, "\"ncclGetUniqueId\":1},\"bytes_sent\":4,\"destroyed\":false}\n"), "rank 1's report");
}

// A rank that goes on after such a failure is out of step.
void out_of_step() {
    join();
    {
        const Buffer buffer(8);
        if (self().rank == 1) {
            check_equal("a broadcast that fails", broadcast(buffer.at(), buffer.at(), 1, kUint8, 0), 2);
        }
        check_equal("a gather", gather(buffer), kInvalidUsage);
    }
    leave();
}

void failing_group() {
    join();
    {
        const Buffer buffer(8);
        check_equal("a group", exchange(buffer), 0);
        check_equal("a group with a call that fails", exchange(buffer), self().rank == 0 ? 3 : kRemoteError);
        if (self().rank == 0) return;
    }
    leave();
}

void asynchronous_error() {
    join();
    {
        const Buffer buffer(8);
        check_equal("the first answer", async_error(), self().rank == 1 ? kRemoteError : 0);
        check_equal("the second answer", async_error(), self().rank == 1 ? kRemoteError : 0);
        if (self().rank == 1) check_equal("a call of a failed communicator", gather(buffer), kRemoteError);
    }
    leave();
}

// The group does not return, while another thread asks and hears of the other fault.
void hanging_group_with_an_error() {
    join();
    if (self().rank == 0) {
        const Buffer buffer(8);
        std::thread([&buffer] { exchange(buffer); }).detach();
        usleep(kAWhile);
        check_equal("the other fault", async_error(), kRemoteError);
    }
}

// The second end of a group at rank 0 does not return; it is ended, and rank 1 hears of it.
void hanging_group() {
    join();
    const Buffer buffer(8);
    check_equal("a group", exchange(buffer), 0);
    if (self().rank == 0) ualarm(kAWhile, 0);
    check_equal("a group with a rank that is gone", exchange(buffer), kRemoteError);
    check(self().rank == 1, "the call does not return");
    check_equal("the communicator has failed", async_error(), kRemoteError);
}

void hanging_start() {
    ualarm(kAWhile, 0);
    join();
    check(false, "no rank is done before all are there");
}

void killed(int victim) {
    join();
    {
        const Buffer buffer(8);
        check_equal("a gather", gather(buffer), 0);
        if (self().rank == victim) {
            usleep(50'000);
            raise(SIGKILL);
        }
        check_equal("a gather with a rank that is gone", gather(buffer), kRemoteError);
        check(has(last_error(), "rank " + std::to_string(victim) + " is gone without a word"), last_error());
        check_equal("the communicator has failed", async_error(), kRemoteError);
        check_equal("it stays so", gather(buffer), kRemoteError);
    }
    leave();
}

// Without a call that would find out.
void killed_while_idle(int victim) {
    join();
    if (self().rank == victim) raise(SIGKILL);
    int code = 0;
    for (int tries = 0; tries < 500 && code == 0; tries++) {
        usleep(10'000);
        code = async_error();
    }
    check_equal("ncclCommGetAsyncError finds it", code, kRemoteError);
    leave();
}

Case unreadable(const std::string& name, const std::string& value, const std::string& told) {
    const auto body = [] {
        int version = 0;
        check_equal("ncclGetVersion", call("ncclGetVersion", &version), kInvalidUsage);
        check_equal("the version", version, 0);
    };
    const std::string entry = name + "=" + value;
    return {entry, 1, body, {{name, value}}, {}, tells("nccl double: limit: " + entry + ": " + told)};
}

void words() {
    const auto of = reinterpret_cast<const char* (*)(int)>(find_symbol("ncclGetErrorString"));
    check(std::string(of(6)) == "another rank failed or is gone", "the words of an error");
    check(std::string(of(99)) == "no result of this library", "the words of no error");
    check(last_error().empty(), "nothing was told");
}

}  // namespace

std::vector<Case> fault_cases() {
    const std::string injected = "nccl double: injected: ";
    const std::string gone = "nccl double: lost: rank ";
    std::vector<Case> cases = {
        {"a gather that fails", 3, third_gather, failing("1@ncclAllGather:3:6"), {}, see_failed_gather},
        {"out of step", 2, out_of_step, failing("1@ncclBroadcast:1:2"), {},
         tells("rank 1 calls ncclAllGather of 1 ncclUint8 as its collective call 2")},
        {"a send that fails", 2, failing_group, failing("0@ncclSend:2:3"), {}, tells(injected + "call 2 of ncclSend")},
        {"the end of a group that fails", 2, failing_group, failing("0@ncclGroupEnd:2:3"), {},
         tells(injected + "call 2 of ncclGroupEnd")},
        {"an asynchronous error", 2, asynchronous_error, failing("1@ncclCommGetAsyncError:1:6"), {},
         tells(injected + "call 1 of ncclCommGetAsyncError at rank 1 gives 6")},
        {"a group that hangs", 2, hanging_group, failing("0@ncclGroupEnd:2:hang"), {{0, SIGALRM}},
         tells(injected + "call 2 of ncclGroupEnd at rank 0 does not return")},
        {"a group that hangs, and an error", 2, hanging_group_with_an_error,
         failing("0@ncclGroupEnd:1:hang,0@ncclCommGetAsyncError:1:6"), {},
         tells(injected + "call 1 of ncclCommGetAsyncError")},
        {"a start that hangs", 2, hanging_start, failing("1@ncclCommInitRank:1:hang"), {{0, SIGALRM}, {1, SIGALRM}},
         tells(injected + "call 1 of ncclCommInitRank")},
        unreadable("NCCL_DOUBLE_FAIL", "1@ncclAllGather:0:6", "RANK@FUNCTION:NTH:WHAT is expected"),
        unreadable("NCCL_DOUBLE_FAIL", "ncclAllGather:1:6", "RANK@FUNCTION:NTH:WHAT is expected"),
        unreadable("NCCL_DOUBLE_FAIL", "1@ncclGetVersion:1:6", "ncclGetVersion cannot be made to fail"),
        unreadable("NCCL_DOUBLE_SPEED", "1", "not a variable of the double"),
        {"words", 1, words},
    };
    for (const int victim : {0, 1}) {
        const std::string name = "rank " + std::to_string(victim);
        const std::string told = gone + std::to_string(victim) + " is gone";
        cases.push_back({name + " is killed", 3, [victim] { killed(victim); }, {}, {{victim, SIGKILL}}, tells(told)});
        cases.push_back({name + " is killed while others are idle", 3, [victim] { killed_while_idle(victim); }, {},
                         {{victim, SIGKILL}}, tells(told)});
    }
    return cases;
}

}  // namespace selftest
