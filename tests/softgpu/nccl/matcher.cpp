#include "matcher.hpp"

#include <algorithm>

#include "codes.hpp"
#include "sum.hpp"

namespace nccl_double {
namespace {

std::string in_its_turn(size_t rank, const Part& part) {
    return concat("rank ", rank, " calls ", part.words(), " as its collective call ", part.sequence);
}

bool agree(const Part& a, const Part& b) {
    return a.call == b.call && a.sequence == b.sequence && a.count == b.count && a.type == b.type && a.peer == b.peer;
}

std::vector<uint8_t> result_of(const std::vector<Part>& parts) {
    const Part& first = parts[0];
    if (first.call == Call::Broadcast) return parts[static_cast<size_t>(first.peer)].data;
    if (first.call == Call::AllReduce) return sum(parts);
    std::vector<uint8_t> all;
    for (const Part& part : parts) all.insert(all.end(), part.data.begin(), part.data.end());
    return all;
}

}  // namespace

void Matcher::arrive(int rank, std::vector<Part> parts) {
    const std::vector<bool> done(parts.size());
    waiting_[static_cast<size_t>(rank)] = Waiting{std::move(parts), done};
}

std::vector<Answer> Matcher::settle() {
    std::vector<Answer> answers;
    settle_collective(answers);
    for (size_t sender = 0; sender < waiting_.size(); sender++) {
        for (size_t receiver = 0; receiver < waiting_.size(); receiver++) match(sender, receiver);
    }
    settle_transfers(answers);
    return answers;
}

void Matcher::settle_collective(std::vector<Answer>& answers) {
    std::vector<Part> parts;
    size_t first_rank = 0;
    for (size_t rank = 0; rank < waiting_.size(); rank++) {
        if (!waiting_[rank] || !waiting_[rank]->is_collective()) continue;
        const Part& part = waiting_[rank]->parts[0];
        if (parts.empty()) {
            first_rank = rank;
        } else if (!agree(parts[0], part)) {
            throw Mismatch{concat(in_its_turn(first_rank, parts[0]), ", ", in_its_turn(rank, part))};
        }
        parts.push_back(part);
    }
    if (parts.size() < waiting_.size()) return;
    const std::vector<uint8_t> result = result_of(parts);
    for (size_t rank = 0; rank < waiting_.size(); rank++) {
        answers.push_back({static_cast<int>(rank), result});
        waiting_[rank].reset();
    }
}

// What one rank sends to another arrives in the order in which it is sent.
void Matcher::match(size_t sender, size_t receiver) {
    if (!waiting_[sender] || !waiting_[receiver]) return;
    Waiting &from = *waiting_[sender], &to = *waiting_[receiver];
    const auto next = [](const Waiting& in, Call call, size_t peer, size_t at) {
        while (at < in.parts.size() &&
               (in.done[at] || in.parts[at].call != call || in.parts[at].peer != static_cast<int>(peer))) {
            at++;
        }
        return at;
    };
    size_t sent = next(from, Call::Send, receiver, 0), received = next(to, Call::Recv, sender, 0);
    while (sent < from.parts.size() && received < to.parts.size()) {
        Part &send = from.parts[sent], &receive = to.parts[received];
        if (send.count != receive.count || send.type != receive.type) {
            throw Mismatch{concat("rank ", sender, " calls ", send.words(), ", which calls ", receive.words())};
        }
        receive.data = std::move(send.data);
        from.done[sent] = to.done[received] = true;
        sent = next(from, Call::Send, receiver, sent);
        received = next(to, Call::Recv, sender, received);
    }
}

void Matcher::settle_transfers(std::vector<Answer>& answers) {
    for (size_t rank = 0; rank < waiting_.size(); rank++) {
        std::optional<Waiting>& waiting = waiting_[rank];
        if (!waiting || std::count(waiting->done.begin(), waiting->done.end(), false) > 0) continue;
        Answer answer = {static_cast<int>(rank), {}};
        for (const Part& part : waiting->parts) {
            if (part.call != Call::Recv) continue;
            answer.bytes.insert(answer.bytes.end(), part.data.begin(), part.data.end());
        }
        answers.push_back(std::move(answer));
        waiting.reset();
    }
}

bool Matcher::waits_for(size_t rank, size_t other) const {
    const auto& waiting = waiting_[rank];
    if (!waiting) return false;
    if (waiting->is_collective()) return !waiting_[other] || !waiting_[other]->is_collective();
    for (size_t at = 0; at < waiting->parts.size(); at++) {
        if (!waiting->done[at] && waiting->parts[at].peer == static_cast<int>(other)) return true;
    }
    return false;
}

// A rank that waits may still be met by one that is busy elsewhere; a ring of ranks that wait may not.
void Matcher::check_waits() const {
    const size_t count = waiting_.size();
    std::vector<std::vector<bool>> reaches(count, std::vector<bool>(count));
    for (size_t rank = 0; rank < count; rank++) {
        for (size_t other = 0; other < count; other++) {
            if (!waits_for(rank, other)) continue;
            if (departed_[other]) {
                throw Mismatch{concat("rank ", rank, " is in ", waiting_[rank]->words(), ", but rank ", other,
                                      " has destroyed its communicator")};
            }
            reaches[rank][other] = waiting_[other].has_value();
        }
    }
    for (size_t through = 0; through < count; through++) {
        for (size_t from = 0; from < count; from++) {
            for (size_t to = 0; to < count; to++) {
                if (reaches[from][through] && reaches[through][to]) reaches[from][to] = true;
            }
        }
    }
    std::string ring;
    for (size_t rank = 0; rank < count; rank++) {
        if (!reaches[rank][rank]) continue;
        ring += concat(ring.empty() ? "" : "; ", "rank ", rank, " in ", waiting_[rank]->words());
    }
    if (!ring.empty()) throw Mismatch{concat("calls wait for each other for ever: ", ring)};
}

std::string Matcher::Waiting::words() const {
    std::string all;
    for (size_t at = 0; at < parts.size(); at++) {
        if (!done[at]) all += (all.empty() ? "" : " and ") + parts[at].words();
    }
    return all;
}

}  // namespace nccl_double
