// Accesses that nothing orders, one of them a write: of two warps to shared memory, of two blocks to global
// memory. Two writes of the same value are a race as well.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace softgpu {

// Atomics are in order with each other; nobody watches whether anything else is with them.
enum class Access { Read, Write, Atomic };

// The shared memory of a block. Every function gives the race it sees, in words.
class SharedRaces {
 public:
    explicit SharedRaces(size_t num_bytes) : writer_(num_bytes), reader_(num_bytes) {}

    // What lies before a barrier, or in another block, is in order with what comes after.
    void barrier();
    std::optional<std::string> access(Access access, size_t offset, size_t num_bytes, unsigned warp);

 private:
    std::string describe(Access access, size_t offset) const;

    // Of each byte: epoch << 8 | warp + 1, or `kSeveral` for the warp.
    std::vector<uint32_t> writer_, reader_;
    uint32_t epoch_ = 1;
};

// Global memory during one launch.
class GlobalRaces {
 public:
    std::optional<std::string> access(Access access, uint64_t address, uint64_t num_bytes, uint32_t block);

 private:
    static constexpr uint64_t kPageBytes = 4096;
    struct Page {
        std::array<uint32_t, kPageBytes> writer{}, reader{};  // block + 1, 0 for none, or `kSeveralBlocks`
    };
    Page& page_of(uint64_t address);

    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
    uint64_t last_number_ = ~uint64_t{0};
    Page* last_page_ = nullptr;
};

}  // namespace softgpu
