// The sums of ncclAllReduce.
#pragma once

#include <cstdint>
#include <vector>

#include "message.hpp"

namespace nccl_double {

// Of the parts' float32 numbers, in the order of ranks.
std::vector<uint8_t> sum(const std::vector<Part>& parts);

}  // namespace nccl_double
