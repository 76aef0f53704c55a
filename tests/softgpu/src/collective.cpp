// What the lanes of a warp do together: shuffles and votes. The scheduler has seen to it that they have met.
#include <unordered_map>

#include "block.hpp"
#include "handlers.hpp"
#include "log.hpp"
#include "warp.hpp"

namespace softgpu {
namespace {

enum class Shuffle { Up, Down, Butterfly, Index };

struct SourceLane {
    int lane;
    bool in_range;
};

// As the PTX ISA has it: `c` holds the last lane of a segment in its low bits and the segments' mask above.
template <Shuffle kMode>
SourceLane source_lane(int lane, uint32_t b, uint32_t c) {
    const int delta = static_cast<int>(b & 31), clamp = static_cast<int>(c & 31);
    const int segment = static_cast<int>(c >> 8 & 31);
    const int min_lane = lane & segment, max_lane = min_lane | (clamp & ~segment);
    switch (kMode) {
        case Shuffle::Up: return {lane - delta, lane - delta >= max_lane};
        case Shuffle::Down: return {lane + delta, lane + delta <= max_lane};
        case Shuffle::Butterfly: return {lane ^ delta, (lane ^ delta) <= max_lane};
        case Shuffle::Index: break;
    }
    const int target = min_lane | (delta & ~segment);
    return {target, target <= max_lane};
}

template <Shuffle kMode>
void shuffle(Block& block, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const uint32_t* value = warp.words_of(in.sources[1]);
    const uint32_t *b = warp.words_of(in.sources[2]), *c = warp.words_of(in.sources[3]);
    uint32_t moved[kWarpLanes], in_range = 0;  // the result may be a source
    for (uint32_t rest = lane_mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        const SourceLane source = source_lane<kMode>(lane, b[lane], c[lane]);
        const int from = source.in_range ? source.lane : lane;
        if (!(lane_mask >> from & 1)) {
            block.fault(Fault::LaunchFailed,
                        concat("a shuffle reads lane ", from, ", which does not take part (undefined)"),
                        lane);
        }
        moved[lane] = value[from];
        in_range |= uint32_t{source.in_range} << lane;
    }
    if (in.results[0]) {
        uint32_t* d = warp.words_of(in.results[0]);
        each_lane(lane_mask, [&](int lane) { d[lane] = moved[lane]; });
    }
    if (in.num_results > 1) warp.set_predicate(in.results[1], in_range, lane_mask);
}

struct All {
    bool operator()(uint32_t votes, uint32_t lane_mask) const { return votes == lane_mask; }
};

struct Any {
    bool operator()(uint32_t votes, uint32_t) const { return votes != 0; }
};

struct Uniform {
    bool operator()(uint32_t votes, uint32_t lane_mask) const { return votes == 0 || votes == lane_mask; }
};

template <class Decide>
void vote(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const uint32_t votes = warp.predicate(in.sources[1]) & lane_mask;
    warp.set_predicate(in.results[0], Decide()(votes, lane_mask) ? kAllLanes : 0, lane_mask);
}

void ballot(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    const uint32_t votes = warp.predicate(in.sources[1]) & lane_mask;
    uint32_t* d = warp.words_of(in.results[0]);
    each_lane(lane_mask, [=](int lane) { d[lane] = votes; });
}

void active_mask(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    uint32_t* d = warp.words_of(in.results[0]);
    each_lane(lane_mask, [=](int lane) { d[lane] = lane_mask; });
}

void nothing(Block&, Warp&, const Instruction&, uint32_t) {}

void wait_for_launches_before(Block&, Warp& warp, const Instruction&, uint32_t lane_mask) {
    warp.waited |= lane_mask;
}

void trap(Block& block, Warp&, const Instruction&, uint32_t) {
    block.fault(Fault::IllegalInstruction, "trap");
}

Handler find(const std::unordered_map<std::string, Handler>& handlers, const std::string& name) {
    const auto found = handlers.find(name);
    return found == handlers.end() ? nullptr : found->second;
}

}  // namespace

Handler shuffle_handler(const std::string& mode) {
    static const std::unordered_map<std::string, Handler> handlers = {{"up", shuffle<Shuffle::Up>},
                                                                      {"down", shuffle<Shuffle::Down>},
                                                                      {"bfly", shuffle<Shuffle::Butterfly>},
                                                                      {"idx", shuffle<Shuffle::Index>}};
    return find(handlers, mode);
}

Handler vote_handler(const std::string& mode) {
    static const std::unordered_map<std::string, Handler> handlers = {
        {"all", vote<All>}, {"any", vote<Any>}, {"uni", vote<Uniform>}, {"ballot", ballot}};
    return find(handlers, mode);
}

Handler active_mask_handler() { return active_mask; }
Handler nothing_handler() { return nothing; }
Handler trap_handler() { return trap; }
Handler launches_before_handler() { return wait_for_launches_before; }

}  // namespace softgpu
