// What instructions do to the values of floats.
#pragma once

#include <cmath>

namespace softgpu {

// .ftz
inline float flush_subnormal(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

// .sat: to [0, 1]; a NaN becomes +0.
inline float saturate_unit(float value) { return value > 0 ? std::fmin(value, 1.0f) : 0.0f; }

// The nearest f32 that is no further from zero.
inline float towards_zero(double value) {
    const auto nearest = static_cast<float>(value);
    return std::fabs(double{nearest}) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

}  // namespace softgpu
