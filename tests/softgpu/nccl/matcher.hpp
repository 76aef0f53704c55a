// Which calls of several ranks belong together, and what comes of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "message.hpp"

namespace nccl_double {

struct Answer {
    int rank;
    std::vector<uint8_t> bytes;
};

// Calls that can never come to an end together.
struct Mismatch {
    std::string text;
};

// Every rank waits in one request at a time, as a call returns when it is over.
class Matcher {
 public:
    explicit Matcher(int num_ranks) : waiting_(static_cast<size_t>(num_ranks)), departed_(waiting_.size()) {}

    void arrive(int rank, std::vector<Part> parts);
    void depart(int rank) { departed_[static_cast<size_t>(rank)] = true; }

    // The answers of what has become complete. Throws Mismatch.
    std::vector<Answer> settle();

    // Throws Mismatch where ranks wait for what cannot come. Asked after what is complete has been settled.
    void check_waits() const;

 private:
    struct Waiting {
        std::vector<Part> parts;
        std::vector<bool> done;

        bool is_collective() const { return nccl_double::is_collective(parts[0].call); }
        std::string words() const;  // of what is not done
    };

    void settle_collective(std::vector<Answer>& answers);
    void match(size_t sender, size_t receiver);
    void settle_transfers(std::vector<Answer>& answers);
    bool waits_for(size_t rank, size_t other) const;

    std::vector<std::optional<Waiting>> waiting_;
    std::vector<bool> departed_;
};

}  // namespace nccl_double
