// Holds the software GPU to the words of the PTX ISA and of the driver's documentation: instructions with
// known results, and faults planted on purpose that must be told. Needs nothing but the library.
//
// The library reads its variables once, so every group of tests runs in a process of its own.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace selftest {

// Calls an entry point of the library by its name; gives its code.
void* find_symbol(const char* name);
template <class... Arguments>
int cu(const char* name, Arguments... arguments) {
    return reinterpret_cast<int (*)(Arguments...)>(find_symbol(name))(arguments...);
}

void check(bool ok, const std::string& what);
void check_equal(const std::string& what, int64_t got, int64_t want);

// What the library has said since it was last asked.
std::string take_log();

// A fault whose code must be this one, and of which the library must tell in a line of this kind. The last
// step of a planted fault: it looks at what has been said since the last one.
void planted(const std::string& what, int code, int expected_code, const std::string& kind = "VIOLATION");

// A context with a stream and a buffer of `kWords` words; a fault in the device asks for another one.
constexpr size_t kWords = 4096;
struct Session {
    void* context = nullptr;
    void* stream = nullptr;
    uint64_t buffer = 0;
};
Session& session();
void open_session();
void close_session();  // without anything left
void reopen_session();
void upload(uint64_t to, const void* from, size_t num_bytes);
void download(void* to, uint64_t from, size_t num_bytes);

// A kernel `k` with the buffer's address in %d0, its argument in %r0, the thread in %r1 and the address of
// the thread's word in %d1. It may use %r, %f, %h, %d, %e and %p.
std::string kernel_text(const std::string& body, const std::string& declarations = "",
                        const std::string& outside = "");

// The same for another target than sm_80.
std::string on_target(const std::string& target, const std::string& text);

struct Run {
    unsigned block = 32, grid = 1, shared_bytes = 0;
    uint32_t argument = 0;
    std::vector<uint32_t> input = {};
    bool overlaps = false;  // may begin before what is before it in the stream is done
};

// Launches through cuLaunchKernelEx with the attribute `id` set to 1.
int launch_with_attribute(int id, void* function, const Run& how, void** parameters);
struct Result {
    int code;
    std::vector<uint32_t> words;  // of the buffer afterwards
};
Result run(const std::string& text, const Run& how = {});

inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

struct Group {
    std::string name;
    std::vector<std::pair<std::string, std::string>> environment;
    std::function<void()> body;
    // Looks at what the process has said, and at its report, when it is over.
    std::function<void(const std::string& log, const std::string& report)> after = {};
};

std::vector<Group> instruction_groups();
std::vector<Group> warp_groups();
std::vector<Group> matrix_groups();
std::vector<Group> fault_groups();
std::vector<Group> product_groups();
std::vector<Group> product_fault_groups();
std::vector<Group> driver_groups();
std::vector<Group> variable_groups();

}  // namespace selftest
