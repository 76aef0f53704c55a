// What the double has to say: lines `nccl double: KIND: TEXT` on stderr or in the file that SOFTGPU_LOG names.
#pragma once

#include <string>

#include "../src/concat.hpp"

namespace nccl_double {

using softgpu::concat;

// What ends a call: its result, and the line that says why.
struct Refusal {
    int code = 0;
    std::string kind;
    std::string text;
};

void say(const std::string& kind, const std::string& text);

// The line said last in this process; lives as long as the process.
const char* last_line();

}  // namespace nccl_double
