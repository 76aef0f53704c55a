// What the modifiers .ftz and .sat do to a value.
#pragma once

#include <cmath>

namespace softgpu {

inline float flush_subnormal(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

// To [0, 1]; a NaN becomes +0.
inline float saturate_unit(float value) { return value > 0 ? std::fmin(value, 1.0f) : 0.0f; }

}  // namespace softgpu
