// The driver's rules, and those who break them.
#include "selftest.hpp"

namespace selftest {
namespace {

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kInvalidContext = 201,
              kInvalidHandle = 400;
constexpr int kNotFound = 500, kCaptureUnsupported = 900, kCaptureInvalidated = 901, kIllegalState = 401;

int launch(void* function, void** parameters, unsigned block = 32) {
    return cu("cuLaunchKernel", function, 1u, 1u, 1u, block, 1u, 1u, 0u, session().stream, parameters,
              static_cast<void**>(nullptr));
}

void* load(const std::string& text, void** module) {
    void* function = nullptr;
    check_equal("cuModuleLoadData", cu("cuModuleLoadData", module, static_cast<const void*>(text.c_str())),
                0);
    check_equal("cuModuleGetFunction", cu("cuModuleGetFunction", &function, *module, "k"), 0);
    return function;
}

void before_everything() {
    int count = 0;
    planted("a call before cuInit", cu("cuDeviceGetCount", &count), kNotInitialized);
    check_equal("cuInit", cu("cuInit", 0u), 0);
    uint64_t address = 0;
    planted("a call without a context", cu("cuMemAlloc_v2", &address, size_t{4}), kInvalidContext);
}

void limits() {
    open_session();
    uint64_t address = 0;
    size_t free_bytes = 0, total_bytes = 0;
    Run large, dynamic;
    large.block = 1025;
    dynamic.shared_bytes = 65536;
    planted("a launch of 1025 threads", run(kernel_text(""), large).code, kInvalidValue);
    planted("64 KiB of shared memory without asking",
            run(kernel_text("mov.u32 %r2, dyn;", "", ".extern .shared .align 16 .b8 dyn[];"), dynamic).code,
            kInvalidValue);
    planted("an allocation of nothing", cu("cuMemAlloc_v2", &address, size_t{0}), kInvalidValue);
    check_equal("more memory than there is", cu("cuMemAlloc_v2", &address, size_t{1} << 40), kOutOfMemory);
    planted("a memset past the end",
            cu("cuMemsetD8Async", session().buffer, static_cast<unsigned char>(0), kWords * 4 + 1,
               session().stream),
            kInvalidValue);
    planted("freeing the inside of an allocation", cu("cuMemFree_v2", session().buffer + 4), kInvalidValue);
    check_equal("cuMemGetInfo", cu("cuMemGetInfo_v2", &free_bytes, &total_bytes), 0);
    check(total_bytes == size_t{4096} << 20 && free_bytes == total_bytes - (size_t{302} << 20),
          "memory is accounted for");
    close_session();
}

void parameters() {
    open_session();
    void *module = nullptr, *function = load(kernel_text("st.global.u32 [%d1], %r0;"), &module);
    uint32_t argument = 99, word = 0;
    void* pointers[] = {&session().buffer, &argument};
    check_equal("a launch", launch(function, pointers), 0);
    argument = 1;  // parameters are read at the call
    download(&word, session().buffer, 4);
    check_equal("each parameter has a pointer of its own", word, 99);
    void* missing[] = {&session().buffer, nullptr};
    planted("a parameter without a pointer", launch(function, missing), kInvalidValue);
    planted("a kernel of another name", cu("cuModuleGetFunction", &function, module, "other"), kNotFound);
    cu("cuModuleUnload", module);
    planted("a kernel of a module that is gone", launch(function, pointers), kInvalidHandle);
    planted("a module unloaded twice", cu("cuModuleUnload", module), kInvalidHandle);
    function =
        load(".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nret;\n}\n", &module);
    check_equal("a kernel without parameters", launch(function, nullptr), 0);
    check_equal("runs", cu("cuStreamSynchronize", session().stream), 0);
    cu("cuModuleUnload", module);
    close_session();
}

void captures() {
    open_session();
    void *graph = nullptr, *executable = nullptr, *module = nullptr, *marks[2] = {},
         *stream = session().stream;
    uint64_t address = 0;
    void* function = load(kernel_text("red.global.add.u32 [%d0], 1;"), &module);
    uint32_t argument = 0, word = 0;
    void* pointers[] = {&session().buffer, &argument};
    for (void*& mark : marks) cu("cuEventCreate", &mark, 0u);
    cu("cuMemsetD8Async", session().buffer, static_cast<unsigned char>(0), size_t{4}, stream);
    check_equal("cuStreamBeginCapture", cu("cuStreamBeginCapture_v2", stream, 1u), 0);
    check_equal("an external event", cu("cuEventRecordWithFlags", marks[0], stream, 1u), 0);
    check_equal("a captured launch", launch(function, pointers), 0);
    cu("cuEventRecordWithFlags", marks[1], stream, 1u);
    check_equal("cuStreamEndCapture", cu("cuStreamEndCapture", stream, &graph), 0);
    check_equal("cuGraphInstantiate", cu("cuGraphInstantiateWithFlags", &executable, graph, 0ull), 0);
    check_equal("cuGraphUpload", cu("cuGraphUpload", executable, stream), 0);
    for (int launches = 0; launches < 2; launches++) {
        check_equal("cuGraphLaunch", cu("cuGraphLaunch", executable, stream), 0);
    }
    download(&word, session().buffer, 4);
    check_equal("a graph runs when it is launched, and each time", word, 2 * 32);
    float milliseconds = -1;
    check_equal("cuEventElapsedTime", cu("cuEventElapsedTime", &milliseconds, marks[0], marks[1]), 0);
    check(milliseconds >= 0, "time passes between events of a graph");
    take_log();
    planted("a module unloaded while a graph uses it", cu("cuModuleUnload", module), 0);
    for (void* mark : marks) cu("cuEventDestroy_v2", mark);
    cu("cuGraphExecDestroy", executable);
    cu("cuGraphDestroy", graph);
    planted("a graph destroyed twice", cu("cuGraphDestroy", graph), kInvalidHandle);

    cu("cuStreamBeginCapture_v2", stream, 1u);
    planted("an allocation in a capture", cu("cuMemAlloc_v2", &address, size_t{64}), kCaptureUnsupported);
    check_equal("it ends the capture", cu("cuStreamEndCapture", stream, &graph), kCaptureInvalidated);
    cu("cuStreamBeginCapture_v2", stream, 1u);
    planted("waiting for the captured stream", cu("cuStreamSynchronize", stream), kCaptureUnsupported);
    check_equal("it ends the capture", cu("cuStreamEndCapture", stream, &graph), kCaptureInvalidated);
    cu("cuStreamBeginCapture_v2", stream, 2u);
    planted("waiting for a context with a captured stream", cu("cuCtxSynchronize"), kCaptureUnsupported);
    check_equal("it ends the capture", cu("cuStreamEndCapture", stream, &graph), kCaptureInvalidated);
    planted("the end of no capture", cu("cuStreamEndCapture", stream, &graph), kIllegalState);
    close_session();
}

void events() {
    open_session();
    void *untimed = nullptr, *timed = nullptr, *stream = session().stream;
    float milliseconds = 0;
    cu("cuEventCreate", &untimed, 2u);
    cu("cuEventCreate", &timed, 0u);
    planted("the time of an event never recorded", cu("cuEventElapsedTime", &milliseconds, timed, timed),
            kInvalidHandle);
    cu("cuEventRecord", untimed, stream);
    cu("cuEventRecord", timed, stream);
    check_equal("an event that is not over", cu("cuEventElapsedTime", &milliseconds, timed, timed), 600);
    check_equal("cuEventSynchronize", cu("cuEventSynchronize", timed), 0);
    planted("the time of an event without time", cu("cuEventElapsedTime", &milliseconds, untimed, timed),
            kInvalidHandle);
    cu("cuEventDestroy_v2", untimed);
    planted("an event destroyed twice", cu("cuEventDestroy_v2", untimed), kInvalidHandle);
    cu("cuEventDestroy_v2", timed);
    close_session();
}

void streams_that_wait() {
    open_session();
    const uint64_t buffer = session().buffer;
    void *pinned = nullptr, *other = nullptr, *sent = nullptr, *module = nullptr, *stream = session().stream;
    uint32_t words[3] = {}, argument = 0;
    check_equal("cuMemHostAlloc", cu("cuMemHostAlloc", &pinned, size_t{8}, 0u), 0);
    check_equal("another stream", cu("cuStreamCreate", &other, 1u), 0);
    check_equal("cuEventCreate", cu("cuEventCreate", &sent, 2u), 0);
    check_equal("an event never recorded is over", cu("cuStreamWaitEvent", stream, sent, 0u), 0);
    static_cast<uint32_t*>(pinned)[0] = 5;
    cu("cuMemsetD8Async", buffer, static_cast<unsigned char>(0), size_t{12}, stream);
    cu("cuStreamSynchronize", stream);
    cu("cuMemcpyHtoDAsync_v2", buffer, static_cast<const void*>(pinned), size_t{4}, other);
    check_equal("a copy on the GPU", cu("cuMemcpyDtoDAsync_v2", buffer + 4, buffer, size_t{4}, stream), 0);
    cu("cuEventRecord", sent, other);
    check_equal("cuStreamWaitEvent", cu("cuStreamWaitEvent", stream, sent, 0u), 0);
    cu("cuMemcpyDtoDAsync_v2", buffer + 8, buffer, size_t{4}, stream);
    download(words, buffer, 12);
    check_equal("a stream does not wait by itself for another", words[1], 0);
    check_equal("it waits where it is told to", words[2], 5);
    void* function = load(kernel_text("red.global.add.u32 [%d0], 1;"), &module);
    void* pointers[] = {&session().buffer, &argument};
    cu("cuEventRecord", sent, other);
    cu("cuStreamWaitEvent", stream, sent, 0u);
    check_equal("a launch behind a wait", launch(function, pointers), 0);
    download(words, buffer, 4);
    check_equal("runs", words[0], 5 + 32);
    cu("cuModuleUnload", module);
    planted("a copy on the GPU past the end",
            cu("cuMemcpyDtoDAsync_v2", buffer, buffer + kWords * 4 - 4, size_t{8}, stream), kInvalidValue);
    planted("a wait for no event", cu("cuStreamWaitEvent", stream, pinned, 0u), kInvalidHandle);
    cu("cuEventDestroy_v2", sent);
    cu("cuStreamDestroy_v2", other);
    cu("cuMemFreeHost", pinned);
    close_session();
}

void host_memory() {
    open_session();
    void *pinned = nullptr, *second = nullptr, *stream = session().stream;
    const uint64_t buffer = session().buffer;
    uint32_t word = 0, pageable = 3;
    check_equal("cuMemHostAlloc", cu("cuMemHostAlloc", &pinned, size_t{1} << 20, 0u), 0);
    check_equal("beyond SOFTGPU_PINNED_MIB", cu("cuMemHostAlloc", &second, size_t{1}, 0u), kOutOfMemory);
    auto* words = static_cast<uint32_t*>(pinned);
    words[0] = 1;
    upload(buffer, pinned, 4);
    words[0] = 2;  // too early
    cu("cuStreamSynchronize", stream);
    download(&word, buffer, 4);
    check_equal("a page-locked source is read when the copy runs", word, 2);
    upload(buffer, &pageable, 4);
    pageable = 4;
    download(&word, buffer, 4);
    check_equal("a pageable source is read at the call", word, 3);
    download(pinned, buffer, 4);
    check_equal("a page-locked destination before the copy is over", words[0], 0xeeeeeeee);
    cu("cuStreamSynchronize", stream);
    check_equal("and after it", words[0], 3);
    planted("a copy past the end of page-locked memory",
            cu("cuMemcpyDtoHAsync_v2", static_cast<void*>(words + (1 << 18) - 1), buffer, size_t{8}, stream),
            kInvalidValue);
    upload(buffer, pinned, 4);
    planted("page-locked memory freed with a copy of it under way", cu("cuMemFreeHost", pinned), 0);
    planted("page-locked memory freed twice", cu("cuMemFreeHost", pinned), kInvalidValue);
    close_session();
}

void release_with_things_alive() {
    open_session();
    take_log();
    planted("a context released with things alive", cu("cuDevicePrimaryCtxRelease_v2", 0), 0);
    planted("a context released once too often", cu("cuDevicePrimaryCtxRelease_v2", 0), kInvalidContext);
    uint64_t address = 0;
    planted("a call in a context that was released", cu("cuMemAlloc_v2", &address, size_t{4}), 709);
}

}  // namespace

std::vector<Group> driver_groups() {
    return {
        {"before everything", {}, before_everything},
        {"limits", {}, limits},
        {"parameters", {}, parameters},
        {"captures", {}, captures},
        {"events", {}, events},
        {"streams that wait", {}, streams_that_wait},
        {"host memory", {{"SOFTGPU_PINNED_MIB", "1"}}, host_memory},
        {"release with things alive", {}, release_with_things_alive},
    };
}

}  // namespace selftest
