// Modules, kernels and their launches.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string_view>

#include "driver.hpp"

namespace softgpu {
namespace {

constexpr unsigned kSharedBytesUnasked = 49152;

// Attributes of a kernel.
constexpr int kStaticSharedBytes = 1, kMaxDynamicSharedBytes = 8;

// As ten times the major version and the minor: PTX 7.0 came with CUDA 11.0, 8.0 with 12.0 and 9.0 with 13.0.
int newest_ptx_version() {
    const int major = settings().driver_version / 1000, minor = settings().driver_version % 1000 / 10;
    if (major >= 13) return 10 * (major - 4) + minor;
    return major == 12 ? 80 + std::min(minor, 8) : 70 + std::min(minor, 8);
}

bool is_machine_code(const char* image) {
    return memcmp(image, "\177ELF", 4) == 0 || memcmp(image, "\x50\xed\x55\xba", 4) == 0;
}

// A text is read once: tests open many devices, and every one loads the same modules.
const Program& parsed(std::string_view text) {
    // By strings as by views: a text has millions of bytes, of which a string would be a copy.
    static std::map<std::string, Program, std::less<>> programs;
    const auto found = programs.find(text);
    if (found != programs.end()) return found->second;
    const auto& edit = settings().ptx_edit;
    const std::string copy(text);
    return programs.emplace(copy, parse_ptx(edit ? edit->apply(copy) : copy)).first->second;
}

// Whether work that waits or a graph holds a kernel of the module.
bool uses(const Work& work, const Module* module) {
    const auto* kernel = std::get_if<KernelWork>(&work);
    return kernel && kernel->kernel->module.get() == module;
}

void check_unused(const Module* module) {
    for (const auto& entry : driver().streams.all()) {
        for (const Work& work : entry.second->queue) {
            if (uses(work, module)) return violation("a module is unloaded whose kernel is still to run");
        }
    }
    for (const auto& entry : driver().executables.all()) {
        for (const Work& work : *entry.second->nodes) {
            if (uses(work, module)) return violation("a module is unloaded that a graph still uses");
        }
    }
}

std::string show(const uint32_t (&extent)[3]) {
    return concat("(", extent[0], ", ", extent[1], ", ", extent[2], ")");
}

void check_extents(const Function& function, const Launch& launch) {
    const auto& [gx, gy, gz] = launch.grid;
    const auto& [bx, by, bz] = launch.block;
    const std::string what =
        concat(function.name, " on grid ", show(launch.grid), ", block ", show(launch.block), ": ");
    const uint64_t num_threads = uint64_t{bx} * by * bz;
    if (gx == 0 || gy == 0 || gz == 0 || num_threads == 0) refuse(kInvalidValue, what + "an extent is zero");
    if (gx > 2147483647u || gy > 65535 || gz > 65535) refuse(kInvalidValue, what + "the grid is too large");
    if (bx > 1024 || by > 1024 || bz > 64 || num_threads > 1024) {
        refuse(kInvalidValue, what + "the block is too large");
    }
    if (function.max_threads != 0 && num_threads > function.max_threads) {
        refuse(kInvalidValue, concat(what, "the kernel is made for ", function.max_threads, " threads"));
    }
}

void check_shared(const Kernel& kernel, unsigned dynamic_bytes) {
    const Function& function = *kernel.function;
    if (dynamic_bytes > kernel.max_dynamic_shared_bytes) {
        refuse(kInvalidValue, concat(function.name, ": ", dynamic_bytes, " bytes of dynamic shared memory, ",
                                     kernel.max_dynamic_shared_bytes, " are allowed"));
    }
    if (!function.uses_dynamic_shared) {
        if (dynamic_bytes > 0) {
            say("note", concat(function.name, ": does not use its ", dynamic_bytes,
                               " bytes of dynamic shared memory"));
        }
        return;
    }
    const unsigned align = function.dynamic_shared_align;
    const unsigned begin = (function.static_shared_bytes + align - 1) / align * align;
    if (begin + dynamic_bytes > settings().shared_bytes) {
        refuse(kInvalidValue, concat(function.name, ": ", begin + dynamic_bytes, " bytes of shared memory"));
    }
}

// Every parameter has a pointer of its own.
std::vector<uint8_t> gather_parameters(const Function& function, void** pointers) {
    std::vector<uint8_t> bytes(function.parameter_bytes);
    for (size_t index = 0; index < function.parameters.size(); index++) {
        const Parameter& parameter = function.parameters[index];
        if (!pointers || !pointers[index]) {
            refuse(kInvalidValue, concat(function.name, ": parameter ", index, " is missing"));
        }
        memcpy(&bytes[parameter.offset], pointers[index], parameter.num_bytes);
    }
    return bytes;
}

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
    int id;
    char padding[4];
    union {
        int value;
        char bytes[64];
    };
};
struct LaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned num_attributes;
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56, "as in cuda.h");

// Whether the attributes let the launch begin before what is before it in its stream is done. What is captured has that
// as an edge of the graph.
bool may_overlap(const LaunchConfig& config, const Stream& stream) {
    constexpr int kProgrammaticStreamSerialization = 6, kFirstDriverToCapture = 12030;
    bool overlaps = false;
    for (unsigned index = 0; index < config.num_attributes; index++) {
        const LaunchAttribute& attribute = config.attributes[index];
        if (attribute.id != kProgrammaticStreamSerialization) {
            say("limit", concat("attribute ", attribute.id, " of a launch is not known here"));
            throw Refusal{kInvalidValue};
        }
        overlaps = attribute.value != 0;
    }
    if (overlaps && settings().capability < 90) {
        refuse(kInvalidValue, concat("launches overlap from capability 9.0 on, not ", settings().capability));
    }
    if (overlaps && stream.capture && settings().driver_version < kFirstDriverToCapture) {
        refuse(kCaptureUnsupported, "launches that overlap are captured from CUDA 12.3 on");
    }
    return overlaps;
}

int launch_kernel(const LaunchConfig& config, void* handle, void** parameters, void** extra) {
    const std::shared_ptr<Kernel> kernel = driver().kernels.get(handle);
    Stream& stream = stream_of(config.stream);
    Function& function = *kernel->function;
    if (kernel->context != current_context()) {
        refuse(kInvalidHandle, "the kernel is one of another context");
    }
    if (extra) refuse(kInvalidValue, "parameters in one buffer are not covered");
    const auto& [grid_x, grid_y, grid_z] = config.grid;
    const auto& [block_x, block_y, block_z] = config.block;
    Launch launch{&function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, config.shared_bytes, {}};
    check_extents(function, launch);
    check_shared(*kernel, config.shared_bytes);
    launch.parameters = gather_parameters(function, parameters);
    launch.overlaps = may_overlap(config, stream);
    return submit(stream, KernelWork{kernel, std::move(launch)});
}

}  // namespace

SOFTGPU_API cuModuleLoadData(void** handle, const void* image) {
    return call("cuModuleLoadData", kContext | kUncaptured, [&] {
        const auto* text = static_cast<const char*>(image);
        if (is_machine_code(text)) {
            say("limit",
                "machine code cannot run here: choose a capability that the program has only PTX for, as in "
                "SOFTGPU_CC=10.0");
            return kNoBinaryForGpu;
        }
        // sscanf would first look for the end of the text.
        const char* version = strstr(text, ".version ");
        char* rest = nullptr;
        const long major = version ? strtol(version + strlen(".version "), &rest, 10) : 0;
        if (!rest || *rest != '.') refuse(kInvalidImage, "this is no PTX");
        const long minor = strtol(rest + 1, nullptr, 10);
        if (10 * major + minor > newest_ptx_version()) {
            say("note", concat("PTX ", major, ".", minor, " is newer than the driver"));
            return kUnsupportedPtxVersion;
        }
        auto module = std::make_shared<Module>();
        module->context = current_context();
        try {
            module->program = parsed(text);
        } catch (const PtxError& error) {
            say("limit", concat("cuModuleLoadData: ", error.what()));
            return kInvalidPtx;
        }
        const Target& target = module->program.target;
        if (!target.runs_on(settings().capability)) {
            refuse(kNoBinaryForGpu, concat("PTX for sm_", target.capability, target.is_specific ? "a" : "",
                                           " on a GPU of sm_", settings().capability));
        }
        for (const auto& [name, function] : module->program.functions) report().kernels[name] = function;
        *handle = driver().modules.add(std::move(module));
        return kSuccess;
    });
}

SOFTGPU_API cuModuleUnload(void* handle) {
    return call("cuModuleUnload", kContext | kUncaptured, [&] {
        const std::shared_ptr<Module> module = driver().modules.get(handle);
        check_unused(module.get());
        module->is_loaded = false;
        for (const auto& kernel : module->kernels) driver().kernels.remove(kernel.second);
        driver().modules.remove(handle);
        return kSuccess;
    });
}

SOFTGPU_API cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
    return call("cuModuleGetFunction", kContext, [&] {
        const std::shared_ptr<Module> module = driver().modules.get(module_handle);
        const auto found = module->program.functions.find(name);
        if (found == module->program.functions.end()) {
            refuse(kNotFound, concat("the module has no kernel `", name, "`"));
        }
        void*& given = module->kernels[name];
        if (!given) {
            auto kernel = std::make_shared<Kernel>();
            kernel->context = module->context;
            kernel->module = module;
            kernel->function = found->second;
            kernel->max_dynamic_shared_bytes =
                kSharedBytesUnasked - std::min(kSharedBytesUnasked, found->second->static_shared_bytes);
            given = driver().kernels.add(std::move(kernel));
        }
        *handle = given;
        return kSuccess;
    });
}

SOFTGPU_API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    return call("cuFuncGetAttribute", kContext, [&] {
        const Kernel& kernel = *driver().kernels.get(handle);
        switch (attribute) {
            case kStaticSharedBytes: *value = static_cast<int>(kernel.function->static_shared_bytes); break;
            case kMaxDynamicSharedBytes: *value = static_cast<int>(kernel.max_dynamic_shared_bytes); break;
            default:
                say("limit", concat("function attribute ", attribute, " is not known here"));
                return kInvalidValue;
        }
        return kSuccess;
    });
}

SOFTGPU_API cuFuncSetAttribute(void* handle, int attribute, int value) {
    return call("cuFuncSetAttribute", kContext, [&] {
        Kernel& kernel = *driver().kernels.get(handle);
        const unsigned fixed = kernel.function->static_shared_bytes, limit = settings().shared_bytes;
        if (attribute != kMaxDynamicSharedBytes) refuse(kInvalidValue, concat("attribute ", attribute));
        if (value < 0 || fixed > limit || static_cast<unsigned>(value) > limit - fixed) {
            refuse(kInvalidValue, concat(kernel.function->name, ": ", value, " dynamic and ", fixed,
                                         " static bytes of shared memory"));
        }
        kernel.max_dynamic_shared_bytes = static_cast<unsigned>(value);
        return kSuccess;
    });
}

SOFTGPU_API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                           unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream_handle,
                           void** parameters, void** extra) {
    return call("cuLaunchKernel", kContext, [&] {
        const LaunchConfig config = {grid_x,       grid_y,        grid_z,  block_x, block_y, block_z,
                                     shared_bytes, stream_handle, nullptr, 0};
        return launch_kernel(config, handle, parameters, extra);
    });
}

SOFTGPU_API cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** parameters, void** extra) {
    return call("cuLaunchKernelEx", kContext, [&] { return launch_kernel(*config, handle, parameters, extra); });
}

}  // namespace softgpu
