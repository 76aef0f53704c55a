#include "driver.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>

namespace softgpu {
namespace {

uint64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

void inject_failure(const std::string& name, uint64_t nth) {
    const auto& injection = settings().injection;
    if (!injection || injection->function != name || injection->nth != nth) return;
    report().injected++;
    say("injected", concat("call ", nth, " of ", name, " fails with ", injection->code));
    if (injection->stays && current_context()) current_context()->sticky = injection->code;
    throw Refusal{injection->code};
}

// A capture under way that forbids this thread's unsafe calls: in the global mode anybody's, in the
// thread-local one those of the thread that began it.
Capture* forbidding_capture() {
    constexpr unsigned kGlobal = 0, kThreadLocal = 1;
    for (const auto& entry : driver().streams.all()) {
        Capture* capture = entry.second->capture.get();
        if (!capture) continue;
        const bool own = capture->thread == std::this_thread::get_id();
        if (capture->mode == kGlobal || (capture->mode == kThreadLocal && own)) return capture;
    }
    return nullptr;
}

size_t round_up_to_page(size_t num_bytes) {
    constexpr size_t kPage = 2 << 20;
    return (num_bytes + kPage - 1) / kPage * kPage;
}

// Performs queued work. What goes wrong now is an error of the context, which stays.
class Performer {
 public:
    explicit Performer(Context& context) : context_(context) {}

    void operator()(const KernelWork& work) {
        if (!work.kernel->module->is_loaded) {
            return fail(kLaunchFailed,
                        "the kernel " + work.kernel->function->name + " runs after its module was unloaded");
        }
        std::vector<MemoryRange> memory;
        for (const auto& [base, allocation] : context_.memory) {
            memory.push_back({base, allocation.num_bytes, allocation.host});
        }
        report().overlapping += work.launch.overlaps;
        const Outcome outcome = run_launch(work.launch, memory);
        for (const std::string& note : outcome.notes) say("note", note);
        if (outcome.fault == Fault::Race) report().races++;
        if (outcome.fault != Fault::None) fail(code_of(outcome.fault), outcome.text);
    }
    void operator()(const FillWork& work) {
        if (!is_alive(work.to, work.num_bytes, "a memset")) return;
        memset(context_.host_address(work.to), work.value, work.num_bytes);
    }
    void operator()(const UploadWork& work) {
        if (!is_alive(work.to, work.num_bytes, "a copy to the GPU")) return;
        if (!work.staged && !driver().find_host(work.from, work.num_bytes)) {
            return fail(kIllegalAddress, "a copy to the GPU runs whose page-locked source has been freed");
        }
        const uint8_t* from = work.staged ? work.staged->data() : work.from;
        memcpy(context_.host_address(work.to), from, work.num_bytes);
    }
    void operator()(const DownloadWork& work) {
        if (!is_alive(work.from, work.num_bytes, "a copy from the GPU")) return;
        if (work.is_pinned && !driver().find_host(work.to, work.num_bytes)) {
            return fail(kIllegalAddress,
                        "a copy from the GPU runs whose page-locked destination has been freed");
        }
        memcpy(work.to, context_.host_address(work.from), work.num_bytes);
    }
    void operator()(const CopyWork& work) {
        if (!is_alive(work.from, work.num_bytes, "a copy on the GPU")) return;
        if (!is_alive(work.to, work.num_bytes, "a copy on the GPU")) return;
        memmove(context_.host_address(work.to), context_.host_address(work.from), work.num_bytes);
    }
    void operator()(const WaitWork& work) { drain_until(*work.record); }
    void operator()(const RecordWork& work) {
        work.record->is_done = true;
        work.record->time_ns = now_ns();
        work.record->stream = nullptr;
    }

 private:
    static int code_of(Fault fault) {
        switch (fault) {
            case Fault::IllegalAddress: return kIllegalAddress;
            case Fault::Misaligned: return kMisalignedAddress;
            case Fault::IllegalInstruction: return kIllegalInstruction;
            default: return kLaunchFailed;
        }
    }
    void fail(int code, const std::string& text) {
        context_.sticky = code;
        violation(text);
    }
    bool is_alive(uint64_t address, size_t num_bytes, const char* what) {
        if (context_.find(address, num_bytes)) return true;
        fail(kIllegalAddress, concat(what, " runs whose memory has been freed"));
        return false;
    }

    Context& context_;
};

// The oldest work of the stream. In a context with an error only events still come to pass.
void perform_next(Stream& stream) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (stream.context->sticky != kSuccess && !std::holds_alternative<RecordWork>(work)) return;
    std::visit(Performer(*stream.context), work);
}

// Whether the next work of a stream may begin.
bool is_ready(const Stream& stream) {
    const auto* wait = std::get_if<WaitWork>(&stream.queue.front());
    return !wait || wait->record->is_done;
}

// Has the other streams run as far as they may before `last` does anything.
void run_others(const Stream& last) {
    bool has_run = true;
    while (has_run) {
        has_run = false;
        for (const auto& entry : driver().streams.all()) {
            Stream& stream = *entry.second;
            if (&stream == &last || stream.context != last.context) continue;
            while (!stream.queue.empty() && is_ready(stream)) {
                perform_next(stream);
                has_run = true;
            }
        }
    }
}

// Things alive at exit, and the report.
struct AtExit {
    ~AtExit() {
        Driver& all = driver();
        const std::lock_guard<std::mutex> lock(all.mutex);
        if (report().calls.empty()) return;
        size_t num_allocations = 0, num_contexts = 0;
        for (const auto& context : all.devices) {
            num_allocations += context->memory.size();
            // A process may keep one for its life.
            num_contexts += context->num_retained > 1;
        }
        leak("contexts retained more than once", num_contexts);
        leak("device allocations", num_allocations);
        leak("page-locked allocations", all.host_memory.size());
        leak("streams", all.streams.size());
        leak("events", all.events.size());
        leak("graphs", all.graphs.size());
        leak("executable graphs", all.executables.size());
        leak("modules", all.modules.size());
        if (report().violations > 0) say("summary", concat(report().violations, " violations"));
        if (!settings().report.empty()) append_report(settings().report);
    }
} at_exit;

}  // namespace

Driver& driver() {
    static Driver* const driver = new Driver;  // lives until the process ends
    return *driver;
}

Context*& current_context() {
    static thread_local Context* current = nullptr;
    return current;
}

void* next_handle() {
    static uintptr_t last = 0x7000'0000;
    return reinterpret_cast<void*>(last += 16);
}

void refuse(int code, const std::string& why) {
    violation(concat(driver().call, ": ", why));
    throw Refusal{code};
}

void enter(const char* name, unsigned needs) {
    driver().call = name;
    inject_failure(name, ++report().calls[name]);
    if ((needs & kStarted) && !driver().is_started) refuse(kNotInitialized, "cuInit has not been called");
    if ((needs & kContext) == kContext) {
        const Context* context = current_context();
        if (!context) refuse(kInvalidContext, "the thread has no current context");
        if (context->num_retained == 0) refuse(kContextIsDestroyed, "the current context was released");
        if (context->sticky != kSuccess) throw Refusal{context->sticky};
    }
    if (needs & kUncaptured) {
        if (Capture* capture = forbidding_capture()) {
            capture->is_invalid = true;
            refuse(kCaptureUnsupported, concat("a stream is being captured in mode ", capture->mode));
        }
    }
}

const Allocation* Context::find(uint64_t address, size_t num_bytes) const {
    auto above = memory.upper_bound(address);
    if (above == memory.begin()) return nullptr;
    --above;
    const uint64_t offset = address - above->first;
    const size_t size = above->second.num_bytes;
    return offset <= size && num_bytes <= size - offset ? &above->second : nullptr;
}

uint8_t* Context::host_address(uint64_t address) const {
    const auto& [base, allocation] = *std::prev(memory.upper_bound(address));
    return allocation.host + (address - base);
}

size_t Context::used_bytes() const {
    constexpr size_t kModuleBytes = 1 << 20;
    size_t used = settings().context_bytes;
    for (const auto& entry : memory) used += round_up_to_page(entry.second.num_bytes);
    size_t module_bytes = 0;
    for (const auto& entry : driver().modules.all()) {
        module_bytes += entry.second->context == this ? kModuleBytes : 0;
    }
    return used + round_up_to_page(module_bytes);
}

const HostAllocation* Driver::find_host(const void* address, size_t num_bytes) const {
    const auto* wanted = static_cast<const uint8_t*>(address);
    auto above = host_memory.upper_bound(wanted);
    if (above == host_memory.begin()) return nullptr;
    --above;
    const auto offset = static_cast<size_t>(wanted - above->first);
    const size_t size = above->second.num_bytes;
    return offset <= size && num_bytes <= size - offset ? &above->second : nullptr;
}

Stream& stream_of(const void* handle) {
    if (!handle) refuse(kInvalidHandle, "the null stream is not covered");
    Stream& stream = *driver().streams.get(handle);
    if (stream.context != current_context()) refuse(kInvalidHandle, "the stream is one of another context");
    return stream;
}

void forget_captured_events(const Capture& capture) {
    for (const auto& entry : driver().events.all()) {
        if (entry.second->captured == &capture) entry.second->captured = nullptr;
    }
}

int submit(Stream& stream, Work work) {
    if (stream.capture) {
        if (stream.capture->is_invalid) refuse(kCaptureInvalidated, "the capture has failed before");
        stream.capture->nodes.push_back(std::move(work));
        return kSuccess;
    }
    stream.queue.push_back(std::move(work));
    if (settings().eager) drain(stream);
    return stream.context->sticky;
}

void drain(Stream& stream) {
    while (!stream.queue.empty()) perform_next(stream);
}

void drain_until(const EventRecord& record) {
    while (!record.is_done) perform_next(*record.stream);
}

bool is_idle(const Context& context) {
    const auto& streams = driver().streams.all();
    return std::all_of(streams.begin(), streams.end(), [&](const auto& entry) {
        return entry.second->context != &context || entry.second->queue.empty();
    });
}

void drain_all(const Context& context) {
    for (const auto& entry : driver().streams.all()) {
        if (entry.second->context == &context) drain(*entry.second);
    }
}

void host_waits(const Context& context, const std::function<void()>& work) {
    report().waits++;
    work();
    report().idles += is_idle(context);
}

void wait_for(Stream& stream) {
    if (stream.queue.empty()) return;
    host_waits(*stream.context, [&] {
        if (settings().others_first) run_others(stream);
        drain(stream);
    });
}

}  // namespace softgpu
