#include "gpu.hpp"

#include <dlfcn.h>

#include "codes.hpp"
#include "tell.hpp"

namespace nccl_double {
namespace {

void* find(const char* name) {
    if (void* symbol = dlsym(RTLD_DEFAULT, name)) return symbol;
    // The program may have opened it for itself alone.
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void* const symbol = library ? dlsym(library, name) : nullptr;
    if (!symbol) throw Refusal{kUnhandledCudaError, "failed", concat("this process has no ", name)};
    return symbol;
}

template <class... Arguments>
void cu(const char* name, Arguments... arguments) {
    const int code = reinterpret_cast<int (*)(Arguments...)>(find(name))(arguments...);
    if (code != 0) throw Refusal{kUnhandledCudaError, "failed", concat(name, " gives ", code)};
}

}  // namespace

void wait_for(void* stream) { cu("cuStreamSynchronize", stream); }

std::vector<uint8_t> download(uint64_t from, size_t num_bytes, void* stream) {
    std::vector<uint8_t> bytes(num_bytes);
    // To memory that is not page-locked: the call returns when the copy is over.
    if (num_bytes > 0) cu("cuMemcpyDtoHAsync_v2", static_cast<void*>(bytes.data()), from, num_bytes, stream);
    return bytes;
}

void upload(uint64_t to, const uint8_t* from, size_t num_bytes, void* stream) {
    if (num_bytes > 0) cu("cuMemcpyHtoDAsync_v2", to, static_cast<const void*>(from), num_bytes, stream);
}

}  // namespace nccl_double
