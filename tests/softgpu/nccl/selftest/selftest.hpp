// Holds the double of NCCL to what the library's documentation says, with processes that have a software GPU each:
// results that are known, and misuse and faults that must be told.
//
// Both libraries are opened by every process for itself, as the variables differ.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace selftest {

constexpr int kUnhandledCudaError = 1, kInvalidArgument = 4, kInvalidUsage = 5, kRemoteError = 6;
constexpr int kUint8 = 1, kInt32 = 2, kFloat32 = 7, kBfloat16 = 9;
constexpr int kSum = 0, kProd = 1;

void* find_symbol(const char* name);

// Calls an entry point of either library by its name; gives its code.
template <class... Arguments>
int call(const char* name, Arguments... arguments) {
    return reinterpret_cast<int (*)(Arguments...)>(find_symbol(name))(arguments...);
}

void check(bool ok, const std::string& what);
void check_equal(const std::string& what, int64_t got, int64_t want);
bool has(const std::string& text, const std::string& part);

struct UniqueId {
    char internal[128];
};

// One of the processes of a case.
struct Process {
    int rank = 0, num_ranks = 0;
    void* stream = nullptr;
    void* communicator = nullptr;
};
Process& self();

void open_gpu();
int join_as(int rank, int num_ranks);  // gives the code
void join();
void leave();  // with nothing left
void close_gpu();

// Memory of the GPU, freed at the end.
class Buffer {
 public:
    explicit Buffer(size_t num_bytes);
    template <class T>
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size() * sizeof(T)) {
        write(values.data());
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer();

    // Of the byte at this offset.
    void* at(size_t offset = 0) const { return reinterpret_cast<void*>(address_ + offset); }
    uint64_t address() const { return address_; }

    template <class T>
    std::vector<T> values() const {
        std::vector<T> values(num_bytes_ / sizeof(T));
        read(values.data());
        return values;
    }

 private:
    void write(const void* from);
    void read(void* to) const;

    uint64_t address_ = 0;
    size_t num_bytes_;
};

// Calls on this process's communicator and stream.
int send(const void* from, size_t count, int type, int peer);
int receive(void* to, size_t count, int type, int peer);
int all_gather(const void* from, void* to, size_t count, int type);
int all_reduce(const void* from, void* to, size_t count, int type, int reduction = kSum);
int broadcast(const void* from, void* to, size_t count, int type, int root);
int async_error();
std::string last_error();

struct Case {
    std::string name;
    int num_ranks;
    std::function<void()> body;  // of each process
    std::vector<std::pair<std::string, std::string>> environment = {};
    std::map<int, int> signals = {};  // that end ranks; others end by themselves
    // Looks at what was said and at the reports, when all processes are over. By default nothing may have been said.
    std::function<void(const std::string& log, const std::string& report)> after = {};
};

// A case in which this is said.
std::function<void(const std::string&, const std::string&)> tells(const std::string& part);

std::vector<Case> transfer_cases();
std::vector<Case> misuse_cases();
std::vector<Case> fault_cases();

}  // namespace selftest
