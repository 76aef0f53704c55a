// Text of parts that a stream can write. Of the software GPU and of the double of NCCL.
#pragma once

#include <sstream>
#include <string>

namespace softgpu {

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

}  // namespace softgpu
