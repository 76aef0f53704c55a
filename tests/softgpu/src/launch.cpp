#include "launch.hpp"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>
#include <thread>

#include "block.hpp"
#include "settings.hpp"

namespace softgpu {
namespace {

// Every `step`-th block from `first` on, so that no kernel can live on the order of blocks.
class BlockOrder {
 public:
    BlockOrder(uint64_t num_blocks, uint64_t seed) : num_blocks_(num_blocks) {
        if (seed == 0 || num_blocks < 3) return;
        step_ = ((seed * 0x9E3779B97F4A7C15u >> 20) % num_blocks) | 1;
        while (std::gcd(step_, num_blocks) != 1) step_++;
        first_ = (seed * 0xD1B54A32D192ED03u >> 16) % num_blocks;
    }

    uint64_t operator[](uint64_t index) const {
        using Wide = unsigned __int128;
        return static_cast<uint64_t>((Wide{index} * step_ + first_) % num_blocks_);
    }

 private:
    uint64_t num_blocks_, step_ = 1, first_ = 0;
};

struct Progress {
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
};

struct ThreadResult {
    Outcome outcome;
    uint64_t num_instructions = 0;
};

ThreadResult run_blocks(Block& block, const BlockOrder& order, uint64_t num_blocks, Progress& progress) {
    ThreadResult result;
    try {
        while (!progress.failed) {
            const uint64_t index = progress.next++;
            if (index >= num_blocks) break;
            block.run(order[index]);
        }
    } catch (const FaultError& error) {
        progress.failed = true;
        result.outcome.fault = error.fault;
        result.outcome.text = error.text;
    }
    result.outcome.notes = block.notes();
    result.num_instructions = block.num_instructions();
    return result;
}

}  // namespace

Outcome run_launch(const Launch& launch, const std::vector<MemoryRange>& memory) {
    const uint64_t num_blocks = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
    const BlockOrder order(num_blocks, settings().seed);
    std::optional<GlobalRaces> global_races;
    if (settings().races == Races::Global) global_races.emplace();
    GlobalRaces* const watch = global_races ? &*global_races : nullptr;

    // Who looks for races between blocks must see one access after the other.
    const unsigned num_threads = num_blocks < 4 || watch ? 1 : settings().num_threads;
    std::vector<ThreadResult> results(num_threads);
    Progress progress;
    const auto work = [&](unsigned number) {
        Block block(launch, memory, watch, number);
        results[number] = run_blocks(block, order, num_blocks, progress);
    };
    std::vector<std::thread> helpers;
    for (unsigned number = 1; number < num_threads; number++) helpers.emplace_back(work, number);
    work(0);
    for (std::thread& helper : helpers) helper.join();

    Outcome total;
    launch.function->num_launches++;
    for (ThreadResult& result : results) {
        launch.function->num_warp_instructions += result.num_instructions;
        if (total.fault == Fault::None) {
            total.fault = result.outcome.fault;
            total.text = result.outcome.text;
        }
        for (const std::string& note : result.outcome.notes) {
            if (std::find(total.notes.begin(), total.notes.end(), note) == total.notes.end()) {
                total.notes.push_back(note);
            }
        }
    }
    return total;
}

}  // namespace softgpu
