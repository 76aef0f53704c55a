#include "message.hpp"

#include <sys/socket.h>

#include <cerrno>

#include "codes.hpp"

namespace nccl_double {
namespace {

// Tells who belongs here from whoever else connects.
constexpr uint32_t kMark = 0x6e63'636c;
constexpr uint64_t kMaxBodyBytes = uint64_t{2} << 30;

struct Head {
    uint32_t mark;
    Kind kind;
    uint64_t body_bytes;

    bool is_sound() const { return mark == kMark && kind <= Kind::Closed && body_bytes <= kMaxBodyBytes; }
};
static_assert(sizeof(Head) == kHeadBytes);

}  // namespace

const char* name_of(Call call) {
    switch (call) {
        case Call::Send: return "ncclSend";
        case Call::Recv: return "ncclRecv";
        case Call::AllGather: return "ncclAllGather";
        case Call::AllReduce: return "ncclAllReduce";
        default: return "ncclBroadcast";
    }
}

std::string Part::words() const {
    const std::string what = concat(name_of(call), " of ", count, " ", data_type(type)->name);
    switch (call) {
        case Call::Send: return concat(what, " to rank ", peer);
        case Call::Recv: return concat(what, " from rank ", peer);
        case Call::Broadcast: return concat(what, " from rank ", peer);
        default: return what;
    }
}

uint64_t Part::num_bytes() const { return count * data_type(type)->num_bytes; }

std::vector<uint8_t> bytes_of(const std::vector<Part>& parts) {
    Writer out;
    out.put(uint64_t{parts.size()});
    for (const Part& part : parts) {
        out.put(part.call).put(part.sequence).put(part.count).put(part.type).put(part.peer);
        out.put(uint64_t{part.data.size()}).put_bytes(part.data.data(), part.data.size());
    }
    return out.take();
}

std::vector<Part> parts_of(const std::vector<uint8_t>& body) {
    Reader in(body);
    std::vector<Part> parts(static_cast<size_t>(in.get<uint64_t>()));
    for (Part& part : parts) {
        part.call = in.get<Call>();
        part.sequence = in.get<uint64_t>();
        part.count = in.get<uint64_t>();
        part.type = in.get<int>();
        part.peer = in.get<int>();
        const auto data_bytes = static_cast<size_t>(in.get<uint64_t>());
        const uint8_t* data = in.next(data_bytes);
        part.data.assign(data, data + data_bytes);
    }
    return parts;
}

std::vector<uint8_t> bytes_of(const Refusal& refusal) {
    return Writer().put(refusal.code).put_text(refusal.kind).put_text(refusal.text).take();
}

Refusal refusal_of(const std::vector<uint8_t>& body) {
    Reader in(body);
    Refusal refusal;
    refusal.code = in.get<int>();
    refusal.kind = in.get_text();
    refusal.text = in.get_text();
    return refusal;
}

bool send_frame(const Socket& socket, Kind kind, const std::vector<uint8_t>& body) {
    const Head head = {kMark, kind, body.size()};
    return send_all(socket, &head, sizeof head) && send_all(socket, body.data(), body.size());
}

bool receive_frame(const Socket& socket, Frame& frame) {
    Head head;
    if (!receive_all(socket, &head, sizeof head) || !head.is_sound()) return false;
    frame.kind = head.kind;
    frame.body.resize(static_cast<size_t>(head.body_bytes));
    return receive_all(socket, frame.body.data(), frame.body.size());
}

FrameReader::Progress FrameReader::read(const Socket& socket, Frame& frame) {
    while (true) {
        const bool in_head = num_read_ < sizeof(Head);
        uint8_t* target = in_head ? head_ + num_read_ : body_.data() + (num_read_ - sizeof(Head));
        const size_t wanted = (in_head ? sizeof(Head) : sizeof(Head) + body_.size()) - num_read_;
        const ssize_t moved = recv(socket.file(), target, wanted, 0);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0 && errno == EAGAIN) return Progress::Waiting;
        if (moved <= 0) return Progress::Gone;
        num_read_ += static_cast<size_t>(moved);
        if (num_read_ < sizeof(Head)) continue;
        Head head;
        memcpy(&head, head_, sizeof head);
        if (!head.is_sound()) return Progress::Gone;
        body_.resize(static_cast<size_t>(head.body_bytes));
        if (num_read_ < sizeof(Head) + body_.size()) continue;
        frame = {head.kind, std::move(body_)};
        body_ = {};
        num_read_ = 0;
        return Progress::Complete;
    }
}

}  // namespace nccl_double
