// A rank among others: its connection to the hub, and the calls that go through it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "message.hpp"
#include "socket.hpp"
#include "tell.hpp"

namespace nccl_double {

// One call with its buffers on the device.
struct Operation {
    Call call = Call::Send;
    uint64_t sequence = 0;  // of collective calls, from 1
    uint64_t from = 0, to = 0;
    size_t count = 0;
    int type = 0;
    int peer = 0;  // or root
    void* stream = nullptr;
};

class Communicator {
 public:
    // Returns when all ranks are there, or throws a Refusal. Rank 0 listens at the address.
    Communicator(const std::string& address, int num_ranks, int rank);

    int rank() const { return rank_; }
    int num_ranks() const { return num_ranks_; }
    uint64_t next_collective() { return ++num_collectives_; }
    bool gives(const Operation& operation) const;  // something of its own to the call
    bool takes(const Operation& operation) const { return operation.call != Call::Send; }

    // Does them all, as one group: collective calls one after the other, and then what is sent and received.
    void perform(const std::vector<Operation>& operations);

    // What ended the work of all ranks, if anything has.
    std::optional<Refusal> failure() const;
    // The same, with what has arrived since the last call.
    std::optional<Refusal> look_for_failure();
    // The first stays.
    void set_failure(const Refusal& failure);
    // Sets it here and at all other ranks.
    void complain(const Refusal& refusal);

    // Rank 0 waits until the others have done so, too: it serves them.
    void destroy();

 private:
    [[noreturn]] void fail(const Refusal& failure);
    std::vector<uint8_t> exchange(const std::vector<Part>& parts);
    Part part_of(const Operation& operation) const;
    uint64_t bytes_given(const Operation& operation) const;
    // Of what came instead of what was waited for.
    Refusal failure_of(bool has_arrived, const Frame& frame) const;

    const int rank_, num_ranks_;
    std::atomic<uint64_t> num_collectives_{0};
    Socket socket_;
    std::mutex call_mutex_;  // one call at a time uses the socket
    mutable std::mutex failure_mutex_;
    std::optional<Refusal> failure_;
};

}  // namespace nccl_double
