#include "liveness.hpp"

#include <algorithm>

namespace softgpu {
namespace {

using Bits = std::vector<uint64_t>;

bool has(const Bits& bits, int index) {
    return bits[static_cast<size_t>(index) / 64] >> (static_cast<unsigned>(index) % 64) & 1;
}
void add(Bits& bits, int index) {
    bits[static_cast<size_t>(index) / 64] |= uint64_t{1} << (static_cast<unsigned>(index) % 64);
}

// Code from one place where ways part or meet to the next.
struct Stretch {
    size_t begin, end;
    Bits reads, writes;  // reads: before a write of this stretch
    Bits live;           // at its beginning
};

class Liveness {
 public:
    Liveness(const Function& function, RegisterFile file) : code_(function.code), file_(file) {
        const int count = file == RegisterFile::Longs ? function.num_longs : function.num_words;
        num_registers_ = count;
        part();
        for (Stretch& stretch : stretches_) {
            const Bits none((static_cast<size_t>(count) + 63) / 64);
            stretch.reads = stretch.writes = none;
            for (size_t at = stretch.begin; at < stretch.end; at++) note(code_[at], stretch);
            stretch.live = stretch.reads;
        }
        while (step()) {
        }
    }

    std::vector<int> at_entry() const {
        std::vector<int> found;
        for (int index = 0; index < num_registers_; index++) {
            if (has(stretches_.front().live, index)) found.push_back(index);
        }
        return found;
    }

 private:
    void part() {
        std::vector<bool> begins(code_.size() + 1);
        begins[0] = true;
        for (size_t at = 0; at < code_.size(); at++) {
            if (code_[at].step == Step::Branch) begins[static_cast<size_t>(code_[at].target)] = true;
            if (code_[at].step == Step::Branch || code_[at].step == Step::Exit) begins[at + 1] = true;
        }
        stretch_at_.resize(code_.size());
        for (size_t at = 0; at < code_.size(); at++) {
            if (begins[at]) stretches_.push_back({at, at, {}, {}, {}});
            stretches_.back().end = at + 1;
            stretch_at_[at] = stretches_.size() - 1;
        }
    }

    void note(const Instruction& in, Stretch& stretch) {
        for (int index = 0; index < in.num_sources; index++) {
            const Operand& source = in.sources[index];
            if (source.file == file_ && !has(stretch.writes, source.index)) add(stretch.reads, source.index);
        }
        // A lane that the guard leaves out keeps what it has.
        if (in.guard >= 0) return;
        for (int index = 0; index < in.num_results; index++) {
            if (in.results[index].file == file_) add(stretch.writes, in.results[index].index);
        }
    }

    // Backwards once; whether anything has changed.
    bool step() {
        bool changed = false;
        for (auto stretch = stretches_.rbegin(); stretch != stretches_.rend(); ++stretch) {
            const Instruction& last = code_[stretch->end - 1];
            const bool ends = last.step == Step::Branch || last.step == Step::Exit;
            if (last.step == Step::Branch) changed |= take(*stretch, static_cast<size_t>(last.target));
            if (stretch->end < code_.size() && (!ends || last.guard >= 0)) changed |= take(*stretch, stretch->end);
        }
        return changed;
    }

    // What is live at the instruction `next` is so before the stretch, unless that writes it.
    bool take(Stretch& stretch, size_t next) {
        const Bits& after = stretches_[stretch_at_[next]].live;
        bool changed = false;
        for (size_t word = 0; word < after.size(); word++) {
            const uint64_t live = stretch.live[word] | (after[word] & ~stretch.writes[word]);
            changed |= live != stretch.live[word];
            stretch.live[word] = live;
        }
        return changed;
    }

    const std::vector<Instruction>& code_;
    const RegisterFile file_;
    int num_registers_ = 0;
    std::vector<Stretch> stretches_;
    std::vector<size_t> stretch_at_;  // by instruction
};

}  // namespace

std::vector<int> live_at_entry(const Function& function, RegisterFile file) {
    return Liveness(function, file).at_entry();
}

}  // namespace softgpu
