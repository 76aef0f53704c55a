// Memory of the software GPU of this process, which the program has opened before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nccl_double {

// All throw a Refusal with what the driver gave. The calling thread needs the stream's context as its current one.
void wait_for(void* stream);
std::vector<uint8_t> download(uint64_t from, size_t num_bytes, void* stream);
void upload(uint64_t to, const uint8_t* from, size_t num_bytes, void* stream);

}  // namespace nccl_double
