// What the double has to say: lines `nccl double: KIND: TEXT` on stderr or in the file that SOFTGPU_LOG names.
#pragma once

#include <sstream>
#include <string>

namespace nccl_double {

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

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
