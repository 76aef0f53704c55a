// Handlers made of an operation on the values of one lane.
#pragma once

#include "warp.hpp"

namespace softgpu {

// The sources are T, whatever comes out of the operation is the result's type.
template <class T, class Operation>
void unary(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    using Result = decltype(Operation()(T()));
    auto* d = lanes_of<Result>(warp, in.results[0]);
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    each_lane(lane_mask,
              [=](int lane) { d[lane] = to_element<Result>(Operation()(from_element<T>(a[lane]))); });
}

template <class T, class Operation>
void binary(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    using Result = decltype(Operation()(T(), T()));
    auto* d = lanes_of<Result>(warp, in.results[0]);
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    const auto* b = lanes_of<T>(warp, in.sources[1]);
    each_lane(lane_mask, [=](int lane) {
        d[lane] = to_element<Result>(Operation()(from_element<T>(a[lane]), from_element<T>(b[lane])));
    });
}

// The third source has a type of its own: the result's in mad.wide.
template <class T, class T2, class Operation>
void ternary(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    using Result = decltype(Operation()(T(), T(), T2()));
    auto* d = lanes_of<Result>(warp, in.results[0]);
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    const auto* b = lanes_of<T>(warp, in.sources[1]);
    const auto* c = lanes_of<T2>(warp, in.sources[2]);
    each_lane(lane_mask, [=](int lane) {
        d[lane] = to_element<Result>(
            Operation()(from_element<T>(a[lane]), from_element<T>(b[lane]), from_element<T2>(c[lane])));
    });
}

// A shift or a bit field: the second source is 32 bits of unsigned count.
template <class T, class Operation>
void counted(Block&, Warp& warp, const Instruction& in, uint32_t lane_mask) {
    auto* d = lanes_of<T>(warp, in.results[0]);
    const auto* a = lanes_of<T>(warp, in.sources[0]);
    const uint32_t* count = warp.words_of(in.sources[1]);
    each_lane(lane_mask,
              [=](int lane) { d[lane] = to_element<T>(Operation()(from_element<T>(a[lane]), count[lane])); });
}

}  // namespace softgpu
