// The entry points.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "codes.hpp"
#include "communicator.hpp"
#include "report.hpp"
#include "settings.hpp"

// An entry point of libnccl.
#define NCCL_API extern "C" __attribute__((visibility("default")))

namespace nccl_double {
namespace {

constexpr int kVersion = 22304;
constexpr int kMaxRanks = 64;
constexpr uint64_t kMaxResultBytes = uint64_t{1} << 30;
constexpr char kIdMark[] = "nccl double at ";

struct UniqueId {
    char internal[128];
};

struct Registry {
    std::mutex mutex;
    // By handle, which is never given twice; nothing for one that was destroyed.
    std::map<const void*, std::shared_ptr<Communicator>> all;
};

Registry& registry() {
    static Registry* const registry = new Registry;  // lives until the process ends
    return *registry;
}

std::shared_ptr<Communicator> find(const void* handle) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    const auto found = registry().all.find(handle);
    return found == registry().all.end() ? nullptr : found->second;
}

// Calls of this thread between ncclGroupStart and ncclGroupEnd.
struct Group {
    int depth = 0;
    int code = kSuccess;  // the first that a call in it gave
    std::shared_ptr<Communicator> communicator;
    std::vector<Operation> operations;
};
thread_local Group group;

[[noreturn]] void refuse(int code, const std::string& why) { throw Refusal{code, "violation", why}; }
[[noreturn]] void refuse_limit(const std::string& why) {
    throw Refusal{kInvalidArgument, "limit", concat(why, " is not covered")};
}

// What NCCL_DOUBLE_FAIL has this call give; it does not return where it is to hang.
std::optional<int> injected(const std::string& function, uint64_t nth) {
    for (const Injection& injection : settings().injections) {
        if (injection.function != function || injection.nth != nth || injection.rank != rank_of_process()) continue;
        const std::string what = injection.hangs ? "does not return" : concat("gives ", injection.code);
        say("injected", concat("call ", nth, " of ", function, " at rank ", injection.rank, " ", what));
        while (injection.hangs) pause();
        return injection.code;
    }
    return std::nullopt;
}

// Ends the call with a line; a communicator that the call was on has failed at all ranks.
int end_with(Refusal refusal, const char* function, Communicator* communicator) {
    if (!communicator) {
        refusal.text = concat(function, ": ", refusal.text);
    } else if (!communicator->failure()) {
        refusal.text = concat("rank ", communicator->rank(), ": ", function, ": ", refusal.text);
        communicator->complain(refusal);
    }
    say(refusal.kind, refusal.text);
    return refusal.code;
}

// A call that is on no communicator.
template <class Body>
int call(const char* function, Body body) {
    const uint64_t nth = count_call(function);
    if (const auto code = injected(function, nth)) return *code;
    try {
        body();
        return kSuccess;
    } catch (const Refusal& refusal) {
        return end_with(refusal, function, nullptr);
    }
}

int refuse_handle(const char* function) {
    return end_with({kInvalidArgument, "violation", "there is no such communicator, or it was destroyed"}, function,
                    nullptr);
}

// A call outside a group, or the end of one.
int perform(const char* function, Communicator& communicator, const std::vector<Operation>& operations) {
    try {
        communicator.perform(operations);
        return kSuccess;
    } catch (const Refusal& refusal) {
        return end_with(refusal, function, &communicator);
    }
}

void check(const Communicator& communicator, const Operation& operation) {
    const DataType* type = data_type(operation.type);
    if (!type) refuse_limit(concat("data type ", operation.type));
    const auto num_ranks = static_cast<uint64_t>(communicator.num_ranks());
    if (operation.count > kMaxResultBytes / type->num_bytes / num_ranks) {
        refuse_limit(concat(operation.count, " ", type->name));
    }
    if (operation.peer < 0 || operation.peer >= communicator.num_ranks()) {
        refuse(kInvalidArgument, concat("there is no rank ", operation.peer, " among ", num_ranks));
    }
    if (operation.count == 0) return;
    if (communicator.gives(operation) && operation.from == 0) refuse(kInvalidArgument, "the source is a null pointer");
    if (communicator.takes(operation) && operation.to == 0) {
        refuse(kInvalidArgument, "the destination is a null pointer");
    }
}

void add_to_group(const std::shared_ptr<Communicator>& communicator, const Operation& operation) {
    if (group.communicator && group.communicator != communicator) refuse_limit("a group of two communicators");
    group.communicator = communicator;
    group.operations.push_back(operation);
}

// Any of the calls that move data.
int transfer(Operation operation, const void* from, void* to, const void* handle, int reduction = kSum) {
    const char* function = name_of(operation.call);
    const uint64_t nth = count_call(function);
    const std::shared_ptr<Communicator> communicator = find(handle);
    // Counted even if it fails: the ranks are out of step then, and that is to be told.
    if (communicator && is_collective(operation.call)) operation.sequence = communicator->next_collective();
    operation.from = reinterpret_cast<uint64_t>(from);
    operation.to = reinterpret_cast<uint64_t>(to);
    const auto code_of = [&]() -> int {
        if (const auto code = injected(function, nth)) return *code;
        if (!communicator) return refuse_handle(function);
        try {
            check(*communicator, operation);
            if (operation.call == Call::AllReduce && (reduction != kSum || operation.type != kFloat32)) {
                refuse_limit(concat("reduction ", reduction, " of ", data_type(operation.type)->name));
            }
            if (group.depth > 0) {
                add_to_group(communicator, operation);
                return kSuccess;
            }
        } catch (const Refusal& refusal) {
            return end_with(refusal, function, communicator.get());
        }
        return perform(function, *communicator, {operation});
    };
    const int code = code_of();
    if (group.depth > 0 && group.code == kSuccess) group.code = code;
    return code;
}

}  // namespace

NCCL_API int ncclGetVersion(int* version) {
    return call("ncclGetVersion", [&] {
        for (const std::string& error : settings().errors) say("limit", error);
        if (!settings().errors.empty()) throw Refusal{kInvalidUsage, "limit", "not all variables can be read"};
        *version = kVersion;
    });
}

NCCL_API int ncclGetUniqueId(UniqueId* id) {
    return call("ncclGetUniqueId", [&] {
        const char* address = getenv("NCCL_COMM_ID");
        if (!address) refuse(kInvalidUsage, "NCCL_COMM_ID is not set");
        check_address(address);
        const std::string text = std::string(kIdMark) + address;
        if (text.size() >= sizeof id->internal) refuse(kInvalidArgument, concat("`", address, "` is too long"));
        memset(id->internal, 0, sizeof id->internal);
        memcpy(id->internal, text.data(), text.size());
    });
}

NCCL_API int ncclCommInitRank(void** handle, int num_ranks, UniqueId id, int rank) {
    set_rank(rank, num_ranks);
    return call("ncclCommInitRank", [&] {
        const std::string text(id.internal, strnlen(id.internal, sizeof id.internal)), mark = kIdMark;
        if (text.compare(0, mark.size(), mark) != 0) refuse(kInvalidArgument, "the id is none of ncclGetUniqueId");
        if (num_ranks < 1 || num_ranks > kMaxRanks || rank < 0 || rank >= num_ranks) {
            refuse(kInvalidArgument, concat("rank ", rank, " of ", num_ranks));
        }
        if (group.depth > 0) refuse_limit("a communicator made in a group");
        auto made = std::make_shared<Communicator>(text.substr(mark.size()), num_ranks, rank);
        count_joined();
        const std::lock_guard<std::mutex> lock(registry().mutex);
        *handle = reinterpret_cast<void*>(0x6000'0000 + 16 * (registry().all.size() + 1));
        registry().all[*handle] = std::move(made);
    });
}

NCCL_API int ncclCommDestroy(void* handle) {
    const uint64_t nth = count_call("ncclCommDestroy");
    if (const auto code = injected("ncclCommDestroy", nth)) return *code;
    const std::shared_ptr<Communicator> communicator = find(handle);
    if (!communicator) return refuse_handle("ncclCommDestroy");
    {
        const std::lock_guard<std::mutex> lock(registry().mutex);
        registry().all[handle] = nullptr;
    }
    count_destroyed();
    try {
        communicator->destroy();
        return kSuccess;
    } catch (const Refusal& refusal) {
        say(refusal.kind, concat("ncclCommDestroy: ", refusal.text));
        return refusal.code;
    }
}

NCCL_API int ncclCommGetAsyncError(void* handle, int* code) {
    const uint64_t nth = count_call("ncclCommGetAsyncError");
    const std::shared_ptr<Communicator> communicator = find(handle);
    if (!communicator) return refuse_handle("ncclCommGetAsyncError");
    if (const auto planted = injected("ncclCommGetAsyncError", nth)) {
        communicator->set_failure({*planted, "injected", concat("the communicator has failed with ", *planted)});
    }
    const auto failure = communicator->look_for_failure();
    *code = failure ? failure->code : kSuccess;
    return kSuccess;
}

NCCL_API const char* ncclGetErrorString(int code) {
    count_call("ncclGetErrorString");
    return words_of(code);
}

NCCL_API const char* ncclGetLastError(void*) {
    count_call("ncclGetLastError");
    return last_line();
}

NCCL_API int ncclGroupStart() {
    return call("ncclGroupStart", [] { group.depth++; });
}

NCCL_API int ncclGroupEnd() {
    const uint64_t nth = count_call("ncclGroupEnd");
    if (group.depth == 0) {
        return end_with({kInvalidUsage, "violation", "no group was started"}, "ncclGroupEnd", nullptr);
    }
    const bool is_outermost = --group.depth == 0;
    const Group ended = is_outermost ? std::exchange(group, Group()) : Group();
    if (const auto code = injected("ncclGroupEnd", nth)) return *code;
    if (ended.code != kSuccess || ended.operations.empty()) return ended.code;
    return perform("ncclGroupEnd", *ended.communicator, ended.operations);
}

NCCL_API int ncclSend(const void* from, size_t count, int type, int peer, void* handle, void* stream) {
    return transfer({Call::Send, 0, 0, 0, count, type, peer, stream}, from, nullptr, handle);
}

NCCL_API int ncclRecv(void* to, size_t count, int type, int peer, void* handle, void* stream) {
    return transfer({Call::Recv, 0, 0, 0, count, type, peer, stream}, nullptr, to, handle);
}

NCCL_API int ncclAllGather(const void* from, void* to, size_t count, int type, void* handle, void* stream) {
    return transfer({Call::AllGather, 0, 0, 0, count, type, 0, stream}, from, to, handle);
}

NCCL_API int ncclAllReduce(const void* from, void* to, size_t count, int type, int reduction, void* handle,
                           void* stream) {
    return transfer({Call::AllReduce, 0, 0, 0, count, type, 0, stream}, from, to, handle, reduction);
}

NCCL_API int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, void* handle, void* stream) {
    return transfer({Call::Broadcast, 0, 0, 0, count, type, root, stream}, from, to, handle);
}

}  // namespace nccl_double
