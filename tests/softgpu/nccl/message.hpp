// What ranks and the hub say to each other. All processes are of one build on one kind of machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "socket.hpp"
#include "tell.hpp"

namespace nccl_double {

enum class Call : uint32_t { Send, Recv, AllGather, AllReduce, Broadcast };

const char* name_of(Call call);
inline bool is_collective(Call call) { return call != Call::Send && call != Call::Recv; }

// One call as the hub needs to know it.
struct Part {
    Call call = Call::Send;
    uint64_t sequence = 0;  // of collective calls of this rank, from 1
    uint64_t count = 0;
    int type = 0;
    int peer = 0;               // or root
    std::vector<uint8_t> data;  // what the rank gives to others; of a receive, what it gets

    std::string words() const;
    uint64_t num_bytes() const;
};

enum class Kind : uint32_t {
    Hello,      // rank, number of ranks
    Welcome,    // all ranks are there
    Request,    // parts: one collective call, or any number that send and receive
    Answer,     // the bytes that the rank's calls give, one after the other
    Complaint,  // a call that this rank has refused: code, kind and text for the others
    Failed,     // the same, to each rank
    Bye,        // the communicator is destroyed
    Closed,     // to rank 0: so are all others
};

struct Frame {
    Kind kind;
    std::vector<uint8_t> body;
};

class Writer {
 public:
    template <class T>
    Writer& put(T value) {
        return put_bytes(&value, sizeof value);
    }
    Writer& put_bytes(const void* bytes, size_t num_bytes) {
        const auto* from = static_cast<const uint8_t*>(bytes);
        bytes_.insert(bytes_.end(), from, from + num_bytes);
        return *this;
    }
    Writer& put_text(const std::string& text) {
        return put(uint64_t{text.size()}).put_bytes(text.data(), text.size());
    }
    std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
    std::vector<uint8_t> bytes_;
};

// Throws std::out_of_range at an end that comes too early.
class Reader {
 public:
    explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}

    template <class T>
    T get() {
        T value;
        memcpy(&value, next(sizeof value), sizeof value);
        return value;
    }
    const uint8_t* next(size_t num_bytes) {
        if (num_bytes > bytes_.size() - at_) throw std::out_of_range("a message is too short");
        at_ += num_bytes;
        return bytes_.data() + (at_ - num_bytes);
    }
    std::string get_text() {
        const auto size = static_cast<size_t>(get<uint64_t>());
        return std::string(reinterpret_cast<const char*>(next(size)), size);
    }

 private:
    const std::vector<uint8_t>& bytes_;
    size_t at_ = 0;
};

std::vector<uint8_t> bytes_of(const std::vector<Part>& parts);
std::vector<Part> parts_of(const std::vector<uint8_t>& body);
std::vector<uint8_t> bytes_of(const Refusal& refusal);
Refusal refusal_of(const std::vector<uint8_t>& body);

// Waits until it is sent; false where the other end is gone.
bool send_frame(const Socket& socket, Kind kind, const std::vector<uint8_t>& body = {});

// Waits for a frame; false where the other end is gone.
bool receive_frame(const Socket& socket, Frame& frame);

// Before the body: what it is, and how long.
constexpr size_t kHeadBytes = 16;

// Puts frames together from what has arrived at a socket that does not block.
class FrameReader {
 public:
    enum class Progress { Waiting, Complete, Gone };
    Progress read(const Socket& socket, Frame& frame);

 private:
    uint8_t head_[kHeadBytes] = {};
    std::vector<uint8_t> body_;
    size_t num_read_ = 0;  // of both
};

}  // namespace nccl_double
