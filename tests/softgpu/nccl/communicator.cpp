#include "communicator.hpp"

#include "codes.hpp"
#include "gpu.hpp"
#include "hub.hpp"
#include "report.hpp"

namespace nccl_double {

Communicator::Communicator(const std::string& address, int num_ranks, int rank) : rank_(rank), num_ranks_(num_ranks) {
    if (rank == 0) {
        auto [of_hub, own] = socket_pair();
        socket_ = std::move(own);
        start_hub(listen_at(address), std::move(of_hub), num_ranks);
    } else {
        socket_ = connect_to(address);
    }
    Frame frame = {};
    const bool has_arrived = send_frame(socket_, Kind::Hello, Writer().put(rank).put(num_ranks).take()) &&
                             receive_frame(socket_, frame);
    if (!has_arrived || frame.kind != Kind::Welcome) fail(failure_of(has_arrived, frame));
}

bool Communicator::gives(const Operation& operation) const {
    if (operation.call == Call::Broadcast) return operation.peer == rank_;
    return operation.call != Call::Recv;
}

void Communicator::perform(const std::vector<Operation>& operations) {
    const std::lock_guard<std::mutex> lock(call_mutex_);
    if (const auto failed = failure()) throw *failed;
    for (const Operation& operation : operations) wait_for(operation.stream);
    std::vector<Part> transfers;
    for (const Operation& operation : operations) {
        Part part = part_of(operation);
        if (!is_collective(operation.call)) {
            transfers.push_back(std::move(part));
            continue;
        }
        const std::vector<uint8_t> result = exchange({part});
        upload(operation.to, result.data(), result.size(), operation.stream);
    }
    if (!transfers.empty()) {
        const std::vector<uint8_t> received = exchange(transfers);
        const uint8_t* next = received.data();
        for (const Operation& operation : operations) {
            if (operation.call != Call::Recv) continue;
            const size_t num_bytes = operation.count * data_type(operation.type)->num_bytes;
            upload(operation.to, next, num_bytes, operation.stream);
            next += num_bytes;
        }
    }
    // What arrives does so in the stream: who reads it on another, and does not wait for this one, finds what was there before.
    for (const Operation& operation : operations) count_bytes_sent(bytes_given(operation));
}

Part Communicator::part_of(const Operation& operation) const {
    Part part;
    part.call = operation.call;
    part.sequence = operation.sequence;
    part.count = operation.count;
    part.type = operation.type;
    part.peer = operation.peer;
    if (gives(operation)) {
        part.data = download(operation.from, static_cast<size_t>(part.num_bytes()), operation.stream);
    }
    return part;
}

uint64_t Communicator::bytes_given(const Operation& operation) const {
    if (!gives(operation)) return 0;
    const uint64_t num_bytes = operation.count * data_type(operation.type)->num_bytes;
    const auto num_others = static_cast<uint64_t>(num_ranks_ - 1);
    switch (operation.call) {
        case Call::Send: return operation.peer == rank_ ? 0 : num_bytes;
        case Call::AllReduce: return num_others > 0 ? num_bytes : 0;
        default: return num_bytes * num_others;
    }
}

std::vector<uint8_t> Communicator::exchange(const std::vector<Part>& parts) {
    // Where it cannot be sent, the reason may have arrived.
    send_frame(socket_, Kind::Request, bytes_of(parts));
    Frame frame = {};
    const bool has_arrived = receive_frame(socket_, frame);
    if (!has_arrived || frame.kind != Kind::Answer) fail(failure_of(has_arrived, frame));
    return std::move(frame.body);
}

Refusal Communicator::failure_of(bool has_arrived, const Frame& frame) const {
    if (has_arrived && frame.kind == Kind::Failed) return refusal_of(frame.body);
    return {kRemoteError, "lost", "rank 0 is gone without a word"};
}

void Communicator::fail(const Refusal& failure) {
    set_failure(failure);
    throw failure;
}

std::optional<Refusal> Communicator::failure() const {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    return failure_;
}

std::optional<Refusal> Communicator::look_for_failure() {
    // A call under way in another thread reads what arrives.
    const std::unique_lock<std::mutex> lock(call_mutex_, std::try_to_lock);
    if (lock.owns_lock() && !failure() && is_readable(socket_)) {
        Frame frame = {};
        const bool has_arrived = receive_frame(socket_, frame);
        const Refusal found = failure_of(has_arrived, frame);
        say(found.kind, found.text);
        set_failure(found);
    }
    return failure();
}

void Communicator::set_failure(const Refusal& failure) {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    if (!failure_) failure_ = failure;
}

void Communicator::complain(const Refusal& refusal) {
    const std::lock_guard<std::mutex> lock(call_mutex_);
    if (failure()) return;
    set_failure(refusal);
    const bool is_misuse = refusal.code == kInvalidArgument || refusal.code == kInvalidUsage;
    const Refusal for_others = is_misuse ? refusal : Refusal{kRemoteError, "lost", refusal.text};
    send_frame(socket_, Kind::Complaint, bytes_of(for_others));
    // It comes back when all others have been told.
    Frame frame = {};
    receive_frame(socket_, frame);
}

void Communicator::destroy() {
    const std::unique_lock<std::mutex> lock(call_mutex_, std::try_to_lock);
    if (!lock.owns_lock()) throw Refusal{kInvalidUsage, "violation", "a call is under way in another thread"};
    const Socket closes_at_return = std::move(socket_);
    send_frame(closes_at_return, Kind::Bye);
    if (rank_ != 0 || failure()) return;
    Frame frame = {};
    const bool has_arrived = receive_frame(closes_at_return, frame);
    if (!has_arrived || frame.kind != Kind::Closed) fail(failure_of(has_arrived, frame));
}

}  // namespace nccl_double
