// Which registers matter before a kernel has written them.
#pragma once

#include "program.hpp"

namespace softgpu {

// Registers that a lane may read before it writes them, whatever way it takes through the code, by their index in a file of
// registers; constants and special registers are among them.
std::vector<int> live_at_entry(const Function& function, RegisterFile file);

}  // namespace softgpu
