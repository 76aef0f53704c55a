#include "async_proxy.hpp"

#include <algorithm>

#include "log.hpp"
#include "matrix_descriptor.hpp"

namespace softgpu {

AsyncProxy::AsyncProxy(size_t num_bytes, size_t num_threads)
    : threads_(num_threads),
      written_(num_bytes),
      writer_(num_bytes),
      chunk_written_(num_bytes / kChunkBytes + 1) {}

void AsyncProxy::start() {
    std::fill(threads_.begin(), threads_.end(), Thread());
    std::fill(written_.begin(), written_.end(), 0);
    std::fill(chunk_written_.begin(), chunk_written_.end(), 0);
    all_fenced_ = 0;
}

void AsyncProxy::mark(size_t offset, size_t num_bytes, unsigned thread, uint64_t time) {
    for (size_t byte = offset; byte < offset + num_bytes; byte++) {
        written_[byte] = time;
        writer_[byte] = thread;
    }
    for (size_t byte = offset; byte < offset + num_bytes; byte += kChunkBytes) {
        chunk_written_[byte / kChunkBytes] = time;
    }
}

void AsyncProxy::write(size_t offset, size_t num_bytes, unsigned thread) {
    mark(offset, num_bytes, thread, ++now_);
}

void AsyncProxy::start_copy(size_t offset, size_t num_bytes, unsigned thread) {
    mark(offset, num_bytes, thread, kUnderWay);
}

void AsyncProxy::barrier() {
    all_fenced_ = kUnderWay;
    for (Thread& thread : threads_) {
        thread.fence_before_barrier = thread.fence;
        all_fenced_ = std::min(all_fenced_, thread.fence);
    }
}

std::optional<std::string> AsyncProxy::read(size_t offset) const {
    if (chunk_written_[offset / kChunkBytes] <= all_fenced_) return std::nullopt;
    for (size_t byte = offset; byte < offset + kChunkBytes; byte++) {
        const uint64_t when = written_[byte];
        const Thread& thread = threads_[writer_[byte]];
        if (when <= thread.fence_before_barrier) continue;
        const std::string what = concat("reads shared byte ", byte, ", which thread ", writer_[byte]);
        if (when == kUnderWay) return what + " lets a cp.async write that nothing has waited for (a race)";
        if (when > thread.fence) {
            return what + " has written without a fence.proxy.async after that: wgmma may not see it (a race)";
        }
        return what + " has written and fenced, but no barrier lies between the fence and this (a race)";
    }
    return std::nullopt;
}

}  // namespace softgpu
