// What the double has to say: lines `softgpu: KIND: TEXT` on stderr or in the file that SOFTGPU_LOG names.
#pragma once

#include <cstdint>
#include <string>

#include "concat.hpp"

namespace softgpu {

std::string hex(uint64_t value);

bool log_is_open();  // as SOFTGPU_LOG asks for

void say(const char* kind, const std::string& text);

}  // namespace softgpu
