// What the double has to say: lines `softgpu: KIND: TEXT` on stderr or in the file that SOFTGPU_LOG names.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace softgpu {

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

std::string hex(uint64_t value);

bool log_is_open();  // as SOFTGPU_LOG asks for

void say(const char* kind, const std::string& text);

}  // namespace softgpu
