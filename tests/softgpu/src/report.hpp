// What has happened in this process: counted, and written as one line of JSON at exit where SOFTGPU_REPORT
// asks for it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "program.hpp"

namespace softgpu {

struct Report {
    std::map<std::string, uint64_t> calls;
    uint64_t waits = 0;  // calls that made the host wait for work
    uint64_t idles = 0;  // those after which none was left: a GPU with nothing to do until the host goes on
    uint64_t overlapping = 0;  // kernels that ran in launches that may overlap with those before them
    uint64_t violations = 0, leaks = 0, races = 0, injected = 0;
    std::map<std::string, std::shared_ptr<Function>> kernels;  // that were loaded; the newest of a name

    std::string json() const;
};

// Guarded by the driver's lock.
Report& report();

void violation(const std::string& text);
void leak(const std::string& what, uint64_t count);  // says nothing of 0

// Appends to the file in one write, as several processes may share it.
void append_report(const std::string& path);

}  // namespace softgpu
