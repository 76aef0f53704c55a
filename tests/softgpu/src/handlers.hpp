// The functions that perform instructions, chosen when a module is loaded. A null pointer is an instruction
// that is not covered, for its type or one of its modifiers.
#pragma once

#include <string>

#include "program.hpp"

namespace softgpu {

// `operation` is the opcode without types and rounding, as in `mul.hi`.
Handler integer_handler(const std::string& operation, const Instruction& instruction);
Handler float_handler(const std::string& operation, const Instruction& instruction);

Handler compare_handler(const Instruction& instruction);
Handler select_handler(Type type);
Handler predicate_handler(const std::string& operation);  // and, or, xor, not, mov
Handler convert_handler(const Instruction& instruction);

Handler move_handler(Type type);
Handler pack_handler(const Instruction& instruction);
Handler unpack_handler(const Instruction& instruction);

Handler shuffle_handler(const std::string& mode);
Handler vote_handler(const std::string& mode);
Handler active_mask_handler();
Handler nothing_handler();  // of fences: memory is in order here
Handler trap_handler();
Handler launches_before_handler();  // griddepcontrol.wait

Handler load_handler(const Instruction& instruction);
Handler store_handler(const Instruction& instruction);
Handler atomic_handler(const std::string& operation, const Instruction& instruction);
Handler copy_async_handler();
Handler copy_commit_handler();
Handler copy_wait_handler();  // of the groups before the last `immediate` ones
Handler copy_wait_all_handler();

Handler ldmatrix_handler(bool transposed);
Handler mma_handler(Type matrices);

// wgmma, and the fence that lets it see what was written to shared memory.
Handler group_fence_handler();
Handler group_product_handler();
Handler group_commit_handler();
Handler group_wait_handler();
Handler async_proxy_fence_handler();

}  // namespace softgpu
