// What wgmma sees of shared memory. It reads through the asynchronous proxy; threads and cp.async write through the
// generic one. Between the two a fence.proxy.async has to lie, and a barrier, as the readers are other threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace softgpu {

class AsyncProxy {
 public:
    AsyncProxy(size_t num_bytes, size_t num_threads);

    void start();  // of a block
    void write(size_t offset, size_t num_bytes, unsigned thread);
    void start_copy(size_t offset, size_t num_bytes, unsigned thread);  // it writes when it arrives
    void fence(unsigned thread) { threads_[thread].fence = ++now_; }
    void barrier();

    // Why these 16 bytes must not be read now, if so.
    std::optional<std::string> read(size_t offset) const;

 private:
    static constexpr uint64_t kUnderWay = ~uint64_t{0};
    struct Thread {
        uint64_t fence = 0, fence_before_barrier = 0;
    };
    void mark(size_t offset, size_t num_bytes, unsigned thread, uint64_t time);

    uint64_t now_ = 0;
    std::vector<Thread> threads_;
    std::vector<uint64_t> written_;  // of each byte: when, and by whom
    std::vector<uint32_t> writer_;
    std::vector<uint64_t> chunk_written_;  // of 16 bytes: when last
    uint64_t all_fenced_ = 0;              // what was written before is fenced by whom it may
};

}  // namespace softgpu
