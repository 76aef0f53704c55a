// One launch of a kernel: what the driver hands to the interpreter.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "program.hpp"

namespace softgpu {

// A live allocation of global memory.
struct MemoryRange {
    uint64_t base = 0, num_bytes = 0;
    uint8_t* host = nullptr;

    bool contains(uint64_t address, uint64_t count) const {
        const uint64_t offset = address - base;  // huge below the base
        return offset < num_bytes && count <= num_bytes - offset;
    }
};

struct Launch {
    Function* function;
    uint32_t grid[3], block[3];
    uint32_t dynamic_shared_bytes;
    std::vector<uint8_t> parameters;
    bool overlaps = false;  // may begin before what is before it in the stream is done
};

enum class Fault { None, IllegalAddress, Misaligned, LaunchFailed, IllegalInstruction, Race };

struct Outcome {
    Fault fault = Fault::None;
    std::string text;
    std::vector<std::string> notes;
};

// `memory` is sorted by address.
Outcome run_launch(const Launch& launch, const std::vector<MemoryRange>& memory);

}  // namespace softgpu
