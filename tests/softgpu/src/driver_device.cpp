// Starting the driver, devices and their primary contexts.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.hpp"

namespace softgpu {
namespace {

// Attributes of a device.
constexpr int kMultiprocessorCount = 16, kCapabilityMajor = 75, kCapabilityMinor = 76;
constexpr int kMaxSharedBytesOptIn = 97, kMemoryPoolsSupported = 115;

// The numbers that CUDA_VISIBLE_DEVICES leaves, in its order: those before the first that is wrong.
std::vector<int> visible_devices() {
    std::vector<int> visible;
    const int count = settings().num_devices;
    const char* list = getenv("CUDA_VISIBLE_DEVICES");
    if (!list) {
        for (int device = 0; device < count; device++) visible.push_back(device);
        return visible;
    }
    std::istringstream in(list);
    for (std::string part; std::getline(in, part, ',');) {
        char* end = nullptr;
        const long device = strtol(part.c_str(), &end, 10);
        const bool is_known = std::find(visible.begin(), visible.end(), device) != visible.end();
        if (part.empty() || *end != '\0' || device < 0 || device >= count || is_known) break;
        visible.push_back(static_cast<int>(device));
    }
    return visible;
}

Context& context_of(int device) {
    auto& devices = driver().devices;
    if (device < 0 || static_cast<size_t>(device) >= devices.size()) {
        refuse(kInvalidDevice, concat("there is no device ", device));
    }
    return *devices[static_cast<size_t>(device)];
}

// Where a fault has ended the context's work, its owner cannot give things back any more: every call fails.
void tell_alive(const Context& context, size_t count, const char* what) {
    if (count > 0 && context.sticky == kSuccess) {
        violation(concat("a context is released with objects alive: ", count, " of kind ", what));
    }
}

template <class T>
void release_of(Registry<T>& registry, const Context& context) {
    tell_alive(context, registry.remove_of(&context), registry.what());
}

size_t release_host_memory(const Context& context) {
    auto& host_memory = driver().host_memory;
    const size_t before = host_memory.size();
    for (auto at = host_memory.begin(); at != host_memory.end();) {
        at = at->second.context == &context ? host_memory.erase(at) : std::next(at);
    }
    return before - host_memory.size();
}

// Everything that lives in it goes.
void release_contents(Context& context) {
    Driver& all = driver();
    if (!is_idle(context)) say("note", "a context is released with work under way");
    drain_all(context);
    tell_alive(context, context.memory.size(), "device allocation");
    for (const auto& entry : context.memory) munmap(entry.second.host, entry.second.num_bytes);
    context.memory.clear();
    tell_alive(context, release_host_memory(context), "page-locked allocation");
    release_of(all.executables, context);
    release_of(all.graphs, context);
    release_of(all.events, context);
    release_of(all.streams, context);
    release_of(all.modules, context);
    all.kernels.remove_of(&context);
}

}  // namespace

SOFTGPU_API cuInit(unsigned flags) {
    return call("cuInit", kNothing, [&] {
        for (const std::string& error : settings().errors) say("limit", error);
        if (!settings().errors.empty()) return kInvalidValue;
        if (flags != 0) refuse(kInvalidValue, concat("flags ", flags));
        Driver& all = driver();
        if (all.is_started) return kSuccess;
        for (const int device : visible_devices()) {
            all.devices.push_back(std::make_unique<Context>());
            all.devices.back()->device = device;
        }
        if (all.devices.empty()) return kNoDevice;
        all.is_started = true;
        return kSuccess;
    });
}

SOFTGPU_API cuDriverGetVersion(int* version) {
    return call("cuDriverGetVersion", kNothing, [&] {
        *version = settings().driver_version;
        return kSuccess;
    });
}

SOFTGPU_API cuDeviceGetCount(int* count) {
    return call("cuDeviceGetCount", kStarted, [&] {
        *count = static_cast<int>(driver().devices.size());
        return kSuccess;
    });
}

SOFTGPU_API cuDeviceGet(int* device, int ordinal) {
    return call("cuDeviceGet", kStarted, [&] {
        if (ordinal < 0 || static_cast<size_t>(ordinal) >= driver().devices.size()) return kInvalidDevice;
        *device = ordinal;
        return kSuccess;
    });
}

SOFTGPU_API cuDeviceGetName(char* name, int size, int device) {
    return call("cuDeviceGetName", kStarted, [&] {
        snprintf(name, static_cast<size_t>(size), "%s #%d", settings().name.c_str(),
                 context_of(device).device);
        return kSuccess;
    });
}

SOFTGPU_API cuDeviceTotalMem_v2(size_t* num_bytes, int device) {
    return call("cuDeviceTotalMem", kStarted, [&] {
        context_of(device);
        *num_bytes = settings().memory_bytes;
        return kSuccess;
    });
}

SOFTGPU_API cuDeviceGetAttribute(int* value, int attribute, int device) {
    return call("cuDeviceGetAttribute", kStarted, [&] {
        context_of(device);
        switch (attribute) {
            case kMultiprocessorCount: *value = settings().num_multiprocessors; break;
            case kCapabilityMajor: *value = static_cast<int>(settings().capability / 10); break;
            case kCapabilityMinor: *value = static_cast<int>(settings().capability % 10); break;
            case kMaxSharedBytesOptIn: *value = static_cast<int>(settings().shared_bytes); break;
            case kMemoryPoolsSupported: *value = 1; break;
            default:
                say("limit", concat("device attribute ", attribute, " is not known here"));
                return kInvalidValue;
        }
        return kSuccess;
    });
}

SOFTGPU_API cuDevicePrimaryCtxRetain(void** handle, int device) {
    return call("cuDevicePrimaryCtxRetain", kStarted, [&] {
        Context& context = context_of(device);
        if (context.num_retained++ == 0) context.sticky = kSuccess;
        *handle = &context;
        return kSuccess;
    });
}

SOFTGPU_API cuDevicePrimaryCtxRelease_v2(int device) {
    return call("cuDevicePrimaryCtxRelease", kStarted, [&] {
        Context& context = context_of(device);
        if (context.num_retained == 0) {
            refuse(kInvalidContext, "the context is released more often than retained");
        }
        if (--context.num_retained == 0) release_contents(context);
        return kSuccess;
    });
}

SOFTGPU_API cuCtxGetCurrent(void** handle) {
    return call("cuCtxGetCurrent", kStarted, [&] {
        *handle = current_context();
        return kSuccess;
    });
}

SOFTGPU_API cuCtxSetCurrent(void* handle) {
    return call("cuCtxSetCurrent", kStarted, [&] {
        const auto& devices = driver().devices;
        const auto found = std::find_if(devices.begin(), devices.end(), [&](const auto& context) {
            return context.get() == handle && context->num_retained > 0;
        });
        if (handle && found == devices.end()) refuse(kInvalidContext, "there is no such context");
        current_context() = static_cast<Context*>(handle);
        return kSuccess;
    });
}

SOFTGPU_API cuCtxSynchronize() {
    return call("cuCtxSynchronize", kContext | kUncaptured, [&] {
        const Context& context = *current_context();
        for (const auto& entry : driver().streams.all()) {
            if (entry.second->context != &context || !entry.second->capture) continue;
            entry.second->capture->is_invalid = true;
            refuse(kCaptureUnsupported, "a stream of the context is being captured");
        }
        if (!is_idle(context)) host_waits(context, [&] { drain_all(context); });
        return static_cast<Code>(context.sticky);
    });
}

SOFTGPU_API cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    return call("cuMemGetInfo", kContext, [&] {
        const size_t used = current_context()->used_bytes();
        *total_bytes = settings().memory_bytes;
        *free_bytes = *total_bytes - std::min(*total_bytes, used);
        return kSuccess;
    });
}

}  // namespace softgpu
