// Division by a number that only the arguments know, as a multiplication: Granlund and Montgomery, "Division by invariant
// integers using multiplication" (1994). The compiler's own division takes about twenty instructions, this one three.
#pragma once

#include "common.cuh"

// `Divisor::new` in src/ops/launch.rs makes it.
struct Divisor {
    uint32_t divisor, factor, shift;
};

// value / by.divisor, for values below 2^31.
static __device__ __forceinline__ uint32_t quotient(uint32_t value, const Divisor& by) {
    return __umulhi(2 * value, by.factor) >> by.shift;
}
