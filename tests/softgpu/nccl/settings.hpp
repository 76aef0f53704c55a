// The environment variables that shape the double, read once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nccl_double {

// One of NCCL_DOUBLE_FAIL: the `nth` call of `function` in the process of `rank` gives `code`, or never returns.
struct Injection {
    int rank = 0;
    std::string function;
    uint64_t nth = 0;
    int code = 0;
    bool hangs = false;
};

struct Settings {
    std::vector<Injection> injections;
    std::string report;

    std::vector<std::string> errors;  // variables that nobody can read
};

const Settings& settings();

}  // namespace nccl_double
