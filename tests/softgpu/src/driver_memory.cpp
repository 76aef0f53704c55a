// Memory of the device and of the host, and what fills and copies it.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "driver.hpp"

namespace softgpu {
namespace {

constexpr size_t kHostPage = 4096;

// Larger allocations stay zero: to touch all their pages would cost the host the memory.
constexpr size_t kMaxFilledBytes = size_t{2} << 30;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

uint8_t* map(size_t num_bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return mapped == MAP_FAILED ? nullptr : static_cast<uint8_t*>(mapped);
}

// Aligned to 512 bytes and to no more, and never given twice.
uint64_t next_address(size_t num_bytes) {
    static uint64_t next = 0x7a00'0000'0000u;
    const uint64_t address = next + 512;
    next = round_up(next + num_bytes + (64 << 20), 2 << 20);
    return address;
}

void check_device_range(uint64_t address, size_t num_bytes) {
    if (current_context()->find(address, num_bytes)) return;
    refuse(kInvalidValue, concat(num_bytes, " bytes at ", hex(address), " do not lie in one allocation"));
}

// Whether the range is page-locked.
bool is_pinned(const void* address, size_t num_bytes) {
    if (driver().find_host(address, num_bytes)) return true;
    if (driver().find_host(address, 1)) refuse(kInvalidValue, "the range goes beyond page-locked memory");
    return false;
}

// A queued copy from or to the range.
bool touches(const Work& work, const uint8_t* base, size_t num_bytes) {
    const auto inside = [&](const uint8_t* address) { return address >= base && address < base + num_bytes; };
    if (const auto* upload = std::get_if<UploadWork>(&work)) return !upload->staged && inside(upload->from);
    if (const auto* download = std::get_if<DownloadWork>(&work)) return inside(download->to);
    return false;
}

}  // namespace

SOFTGPU_API cuMemAlloc_v2(uint64_t* address, size_t num_bytes) {
    return call("cuMemAlloc", kContext | kUncaptured, [&] {
        if (num_bytes == 0) refuse(kInvalidValue, "nothing is asked for");
        Context& context = *current_context();
        const size_t used = context.used_bytes(), total = settings().memory_bytes;
        if (used > total || round_up(num_bytes, 2 << 20) > total - used) return kOutOfMemory;
        uint8_t* host = map(num_bytes);
        if (!host) return kOutOfMemory;
        // What nothing has written is no number.
        if (num_bytes <= kMaxFilledBytes) memset(host, 0xff, num_bytes);
        *address = next_address(num_bytes);
        context.memory[*address] = {num_bytes, host};
        return kSuccess;
    });
}

SOFTGPU_API cuMemFree_v2(uint64_t address) {
    return call("cuMemFree", kContext | kUncaptured, [&] {
        if (address == 0) return kSuccess;
        Context& context = *current_context();
        const auto found = context.memory.find(address);
        if (found == context.memory.end()) refuse(kInvalidValue, concat(hex(address), " is not allocated"));
        if (!is_idle(context)) {
            say("note", "cuMemFree with work under way relies on the driver to wait for it");
            host_waits(context, [&] { drain_all(context); });
        }
        munmap(found->second.host, found->second.num_bytes);
        context.memory.erase(found);
        return kSuccess;
    });
}

SOFTGPU_API cuMemHostAlloc(void** address, size_t num_bytes, unsigned flags) {
    return call("cuMemHostAlloc", kContext | kUncaptured, [&] {
        if (num_bytes == 0) refuse(kInvalidValue, "nothing is asked for");
        if (flags & ~7u) refuse(kInvalidValue, concat("flags ", flags));
        size_t pinned_bytes = 0;
        for (const auto& entry : driver().host_memory) pinned_bytes += entry.second.num_bytes;
        const auto& limit = settings().pinned_bytes;
        if (limit && (pinned_bytes > *limit || num_bytes > *limit - pinned_bytes)) return kOutOfMemory;
        const size_t mapped_bytes = round_up(num_bytes, kHostPage);
        uint8_t* host = map(mapped_bytes + kHostPage);
        if (!host) return kOutOfMemory;
        mprotect(host + mapped_bytes, kHostPage, PROT_NONE);  // whoever runs past the end crashes
        memset(host, 0xff, mapped_bytes);
        driver().host_memory[host] = {num_bytes, mapped_bytes, current_context()};
        *address = host;
        return kSuccess;
    });
}

SOFTGPU_API cuMemFreeHost(void* address) {
    return call("cuMemFreeHost", kContext | kUncaptured, [&] {
        auto& host_memory = driver().host_memory;
        auto* host = static_cast<uint8_t*>(address);
        const auto found = host_memory.find(host);
        if (found == host_memory.end()) refuse(kInvalidValue, concat(address, " is not allocated"));
        const HostAllocation allocation = found->second;
        for (const auto& entry : driver().streams.all()) {
            const auto& queue = entry.second->queue;
            if (std::any_of(queue.begin(), queue.end(),
                            [&](const Work& work) { return touches(work, host, allocation.num_bytes); })) {
                // The documentation promises no wait.
                violation("cuMemFreeHost of memory that a copy under way still needs");
                wait_for(*entry.second);
            }
        }
        // The pages go, their addresses are never used again: whoever touches them crashes.
        madvise(host, allocation.mapped_bytes, MADV_DONTNEED);
        mprotect(host, allocation.mapped_bytes, PROT_NONE);
        host_memory.erase(found);
        return kSuccess;
    });
}

SOFTGPU_API cuMemsetD8Async(uint64_t to, unsigned char value, size_t num_bytes, void* stream) {
    return call("cuMemsetD8Async", kContext, [&]() -> int {
        Stream& on = stream_of(stream);
        check_device_range(to, num_bytes);
        return submit(on, FillWork{to, num_bytes, value});
    });
}

SOFTGPU_API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t num_bytes, void* stream) {
    return call("cuMemcpyHtoDAsync", kContext, [&]() -> int {
        Stream& on = stream_of(stream);
        check_device_range(to, num_bytes);
        const auto* bytes = static_cast<const uint8_t*>(from);
        UploadWork work{to, num_bytes, bytes, nullptr};
        if (!is_pinned(from, num_bytes)) {
            if (on.capture) {
                say("note", "a copy from pageable memory is captured; a GPU may read it at each launch");
            }
            work.staged = std::make_shared<const std::vector<uint8_t>>(bytes, bytes + num_bytes);
        }
        return submit(on, std::move(work));
    });
}

SOFTGPU_API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t num_bytes, void* stream) {
    return call("cuMemcpyDtoDAsync", kContext, [&]() -> int {
        Stream& on = stream_of(stream);
        check_device_range(to, num_bytes);
        check_device_range(from, num_bytes);
        return submit(on, CopyWork{to, from, num_bytes});
    });
}

SOFTGPU_API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t num_bytes, void* stream) {
    return call("cuMemcpyDtoHAsync", kContext, [&]() -> int {
        Stream& on = stream_of(stream);
        check_device_range(from, num_bytes);
        const bool pinned = is_pinned(to, num_bytes);
        const bool is_queued = !on.capture && !settings().eager;
        // What is there until the copy is over is nobody's.
        if (pinned && is_queued) memset(to, 0xee, num_bytes);
        submit(on, DownloadWork{from, num_bytes, static_cast<uint8_t*>(to), pinned});
        // A copy to pageable memory returns when it is over.
        if (!pinned && !on.capture) wait_for(on);
        return current_context()->sticky;
    });
}

}  // namespace softgpu
