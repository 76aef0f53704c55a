// The environment variables that shape the double, read once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ptx_edit.hpp"

namespace softgpu {

// SOFTGPU_FAIL: the `nth` call of `function` fails with `code`, which the context keeps if it stays.
struct Injection {
    std::string function;
    uint64_t nth = 0;
    int code = 0;
    bool stays = false;
};

enum class Races { Ignored, Shared, Global };

struct Settings {
    unsigned capability = 100;  // 10 major + minor
    int num_devices = 2;
    size_t memory_bytes = size_t{4096} << 20, context_bytes = size_t{300} << 20;
    std::optional<size_t> pinned_bytes;
    unsigned shared_bytes = 232448;  // what a block may ask for: 227 KiB, as on an H100
    int num_multiprocessors = 8;
    int driver_version = 13000;
    std::string name = "softgpu (PTX interpreter)";
    bool eager = false, others_first = false;
    uint64_t seed = 1;
    unsigned num_threads = 2;
    Races races = Races::Ignored;
    bool truncate_mma = false, split_fma = false;
    std::optional<Injection> injection;
    std::optional<PtxEdit> ptx_edit;
    std::string report;

    std::vector<std::string> errors;  // variables that nobody can read
};

const Settings& settings();

}  // namespace softgpu
