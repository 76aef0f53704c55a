// The sums of ncclAllReduce.
#pragma once

#include <cstdint>
#include <vector>

#include "message.hpp"

namespace nccl_double {

// Of the parts' numbers, in the order of ranks and in single precision; bf16 is rounded once, at the end.
std::vector<uint8_t> sum(const std::vector<Part>& parts);

}  // namespace nccl_double
