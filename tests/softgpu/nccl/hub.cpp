#include "hub.hpp"

#include <poll.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "codes.hpp"
#include "matcher.hpp"
#include "message.hpp"

namespace nccl_double {
namespace {

struct Peer {
    explicit Peer(Socket socket_) : socket(std::move(socket_)) {}

    Socket socket;
    FrameReader reader;
    int rank = -1;  // before it has said
    bool has_departed = false, is_gone = false;
};

class Hub {
 public:
    Hub(Socket listener, Socket rank_0, int num_ranks)
        : listener_(std::move(listener)), num_ranks_(num_ranks), matcher_(num_ranks) {
        peers_.push_back(std::make_unique<Peer>(std::move(rank_0)));
    }

    void run() {
        const Peer& own = *peers_[0];
        while (!own.is_gone) {
            for (const size_t at : ready_peers()) read(*peers_[at]);
            if (listener_.is_open()) accept_all();
            const auto is_over = [](const auto& peer) { return peer->is_gone && peer->rank != 0; };
            peers_.erase(std::remove_if(peers_.begin(), peers_.end(), is_over), peers_.end());
        }
    }

 private:
    // Rank 0 comes last: its process may end, and this thread with it, as soon as it knows.
    template <class Step>
    void for_all(Step step) {
        for (auto peer = peers_.rbegin(); peer != peers_.rend(); ++peer) {
            if ((*peer)->rank >= 0 && !(*peer)->has_departed) step(**peer);
        }
    }

    std::vector<size_t> ready_peers() const {
        std::vector<pollfd> entries;
        for (const auto& peer : peers_) entries.push_back({peer->socket.file(), POLLIN, 0});
        if (listener_.is_open()) entries.push_back({listener_.file(), POLLIN, 0});
        poll(entries.data(), entries.size(), -1);
        std::vector<size_t> ready;
        for (size_t at = 0; at < peers_.size(); at++) {
            if (entries[at].revents != 0) ready.push_back(at);
        }
        return ready;
    }

    void accept_all() {
        for (Socket socket = accept_from(listener_); socket.is_open(); socket = accept_from(listener_)) {
            peers_.push_back(std::make_unique<Peer>(std::move(socket)));
        }
    }

    void read(Peer& peer) {
        Frame frame;
        while (!peer.is_gone) {
            const FrameReader::Progress progress = peer.reader.read(peer.socket, frame);
            if (progress == FrameReader::Progress::Waiting) return;
            try {
                if (progress == FrameReader::Progress::Gone) throw std::out_of_range("the end of the connection");
                handle(peer, frame);
            } catch (const std::out_of_range&) {
                lose(peer);
            }
        }
    }

    // Throws std::out_of_range of a message that is not one of this library's.
    void handle(Peer& peer, const Frame& frame) {
        Reader in(frame.body);
        if (frame.kind == Kind::Hello) {
            const int rank = in.get<int>();
            return join(peer, rank, in.get<int>());
        }
        if (peer.rank < 0) throw std::out_of_range("a message of nobody");
        if (frame.kind == Kind::Bye) return depart(peer);
        if (failure_) return;
        if (frame.kind == Kind::Complaint) return fail(refusal_of(frame.body));
        matcher_.arrive(peer.rank, parts_of(frame.body));
        settle();
    }

    void join(Peer& peer, int rank, int num_ranks) {
        const auto has_it = [&](const auto& other) { return other->rank == rank; };
        const bool is_taken = std::any_of(peers_.begin(), peers_.end(), has_it);
        peer.rank = rank;
        if (failure_) {
            send_frame(peer.socket, Kind::Failed, bytes_of(*failure_));
            return;
        }
        if (num_ranks != num_ranks_) {
            const std::string counts = concat(num_ranks, " ranks, rank 0 as one of ", num_ranks_);
            return fail({kInvalidUsage, "violation", concat("rank ", rank, " joins as one of ", counts)});
        }
        if (is_taken) return fail({kInvalidUsage, "violation", concat("two processes join as rank ", rank)});
        if (++num_joined_ < num_ranks_) return;
        listener_ = Socket();
        for_all([](const Peer& each) { send_frame(each.socket, Kind::Welcome); });
    }

    void depart(Peer& peer) {
        peer.has_departed = true;
        num_departed_++;
        matcher_.depart(peer.rank);
        if (!failure_) settle();
        close_if_all_have_departed();
    }

    void settle() {
        try {
            const std::vector<Answer> answers = matcher_.settle();
            for_all([&](const Peer& peer) {
                for (const Answer& answer : answers) {
                    if (answer.rank == peer.rank) send_frame(peer.socket, Kind::Answer, answer.bytes);
                }
            });
            matcher_.check_waits();
        } catch (const Mismatch& mismatch) {
            fail({kInvalidUsage, "violation", mismatch.text});
        }
    }

    // The first failure is that of all ranks, for ever: nobody knows any more where the others are.
    void fail(const Refusal& refusal) {
        if (failure_) return;
        failure_ = refusal;
        for_all([&](const Peer& peer) { send_frame(peer.socket, Kind::Failed, bytes_of(refusal)); });
        close_if_all_have_departed();
    }

    void lose(Peer& peer) {
        peer.is_gone = true;
        if (peer.rank > 0 && !peer.has_departed) {
            fail({kRemoteError, "lost", concat("rank ", peer.rank, " is gone without a word")});
        }
    }

    void close_if_all_have_departed() {
        const Peer& own = *peers_[0];
        if (own.has_departed && (failure_ || num_departed_ == num_ranks_)) send_frame(own.socket, Kind::Closed);
    }

    Socket listener_;
    const int num_ranks_;
    int num_joined_ = 0, num_departed_ = 0;
    std::vector<std::unique_ptr<Peer>> peers_;  // the first is rank 0
    Matcher matcher_;
    std::optional<Refusal> failure_;
};

}  // namespace

void start_hub(Socket listener, Socket rank_0, int num_ranks) {
    auto hub = std::make_shared<Hub>(std::move(listener), std::move(rank_0), num_ranks);
    std::thread([hub] { hub->run(); }).detach();
}

}  // namespace nccl_double
