// The driver's objects and rules. Work is queued per stream and runs when something waits for it, or at once
// with SOFTGPU_EAGER=1. All calls take one lock.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "driver_codes.hpp"
#include "launch.hpp"
#include "log.hpp"
#include "program.hpp"
#include "report.hpp"
#include "settings.hpp"

// An entry point of libcuda.
#define SOFTGPU_API extern "C" __attribute__((visibility("default"))) int

namespace softgpu {

struct Capture;
struct Context;
struct Stream;

struct Module {
    Context* context;
    Program program;
    bool is_loaded = true;
    std::map<std::string, void*> kernels;  // handles given out
};

struct Kernel {
    Context* context;
    std::shared_ptr<Module> module;
    std::shared_ptr<Function> function;
    unsigned max_dynamic_shared_bytes;
};

// One recording of an event.
struct EventRecord {
    bool is_done = false;
    uint64_t time_ns = 0;
    Stream* stream = nullptr;  // while it is not done
};

struct Event {
    Context* context;
    unsigned flags;
    std::shared_ptr<EventRecord> record;
    const Capture* captured = nullptr;  // that recorded it last
};

struct KernelWork {
    std::shared_ptr<Kernel> kernel;
    Launch launch;
};

struct FillWork {
    uint64_t to;
    size_t num_bytes;
    uint8_t value;
};

struct UploadWork {
    uint64_t to;
    size_t num_bytes;
    const uint8_t* from;                                 // page-locked: read when the copy runs
    std::shared_ptr<const std::vector<uint8_t>> staged;  // pageable: read at the call
};

struct DownloadWork {
    uint64_t from;
    size_t num_bytes;
    uint8_t* to;
    bool is_pinned;
};

struct RecordWork {
    std::shared_ptr<EventRecord> record;
    std::shared_ptr<Event> event;  // in a graph: gets a new record at every launch
};

struct CopyWork {
    uint64_t to, from;
    size_t num_bytes;
};

// For what another stream has recorded.
struct WaitWork {
    std::shared_ptr<EventRecord> record;
};

using Work = std::variant<KernelWork, FillWork, UploadWork, DownloadWork, CopyWork, RecordWork, WaitWork>;

struct Capture {
    unsigned mode;
    std::thread::id thread;
    std::vector<Work> nodes;
    bool is_invalid = false;
};

struct Stream {
    Context* context;
    std::deque<Work> queue;
    std::unique_ptr<Capture> capture;
};

// The work of one stream in its order; the same before and after it is made executable.
struct Graph {
    Context* context;
    std::shared_ptr<const std::vector<Work>> nodes;
};

struct Allocation {
    size_t num_bytes;
    uint8_t* host;
};

struct HostAllocation {
    size_t num_bytes, mapped_bytes;
    Context* context;
};

// The primary context of a device.
struct Context {
    int device;  // behind CUDA_VISIBLE_DEVICES
    int num_retained = 0;
    int sticky = kSuccess;  // the error that every call gives from now on
    std::map<uint64_t, Allocation> memory;

    const Allocation* find(uint64_t address, size_t num_bytes) const;
    uint8_t* host_address(uint64_t address) const;  // of something in an allocation
    size_t used_bytes() const;
};

// What a call that is refused throws; `call` catches it.
struct Refusal {
    int code;
};

// Tells a violation, beginning with the call's name.
[[noreturn]] void refuse(int code, const std::string& why);

// A handle is never given twice, so that one of something destroyed is told.
void* next_handle();

// Objects behind handles.
template <class T>
class Registry {
 public:
    explicit Registry(const char* what) : what_(what) {}

    void* add(std::shared_ptr<T> object) {
        void* handle = next_handle();
        objects_[handle] = std::move(object);
        return handle;
    }
    const std::shared_ptr<T>& get(const void* handle) const {
        const auto found = objects_.find(handle);
        if (found == objects_.end()) refuse(kInvalidHandle, concat("there is no such ", what_));
        return found->second;
    }
    void remove(const void* handle) {
        get(handle);
        objects_.erase(handle);
    }
    // Gives how many.
    size_t remove_of(const Context* context) {
        const size_t before = objects_.size();
        for (auto at = objects_.begin(); at != objects_.end();) {
            at = at->second->context == context ? objects_.erase(at) : std::next(at);
        }
        return before - objects_.size();
    }

    const char* what() const { return what_; }
    size_t size() const { return objects_.size(); }
    const std::map<const void*, std::shared_ptr<T>>& all() const { return objects_; }

 private:
    const char* what_;
    std::map<const void*, std::shared_ptr<T>> objects_;
};

struct Driver {
    std::mutex mutex;
    bool is_started = false;
    std::string call;  // under way
    std::vector<std::unique_ptr<Context>> devices;
    std::map<const uint8_t*, HostAllocation> host_memory;
    Registry<Stream> streams{"stream"};
    Registry<Event> events{"event"};
    Registry<Graph> graphs{"graph"};
    Registry<Graph> executables{"executable graph"};
    Registry<Module> modules{"module"};
    Registry<Kernel> kernels{"kernel"};

    const HostAllocation* find_host(const void* address, size_t num_bytes) const;
};

Driver& driver();
Context*& current_context();  // of this thread

// What must be so for a call to be allowed.
enum Needs : unsigned {
    kNothing = 0,
    kStarted = 1,
    kContext = 3,
    kUncaptured = 4,  // no capture under way forbids calls that are not safe in it
};

void enter(const char* name, unsigned needs);

template <class Body>
int call(const char* name, unsigned needs, Body body) {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    try {
        enter(name, needs);
        return body();
    } catch (const Refusal& refusal) {
        return refusal.code;
    }
}

// Of this context; refuses others.
Stream& stream_of(const void* handle);

// For captures that are over.
void forget_captured_events(const Capture& capture);

// Into the capture or the queue. Gives the context's error.
int submit(Stream& stream, Work work);

void drain(Stream& stream);
void drain_until(const EventRecord& record);
bool is_idle(const Context& context);
void drain_all(const Context& context);
// As `drain`, by a call that makes the host wait.
// A call that makes the host wait while `work` is done; counted.
void host_waits(const Context& context, const std::function<void()>& work);
void wait_for(Stream& stream);

}  // namespace softgpu
