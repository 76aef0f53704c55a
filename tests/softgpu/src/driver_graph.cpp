// Captures and graphs.
#include "driver.hpp"

namespace softgpu {
namespace {

constexpr unsigned kRelaxed = 2;  // the last mode of a capture

}  // namespace

SOFTGPU_API cuStreamBeginCapture_v2(void* handle, unsigned mode) {
    return call("cuStreamBeginCapture", kContext, [&] {
        Stream& stream = stream_of(handle);
        if (mode > kRelaxed) refuse(kInvalidValue, concat("mode ", mode));
        if (stream.capture) refuse(kIllegalState, "the stream is captured already");
        stream.capture = std::make_unique<Capture>();
        stream.capture->mode = mode;
        stream.capture->thread = std::this_thread::get_id();
        return kSuccess;
    });
}

SOFTGPU_API cuStreamEndCapture(void* handle, void** graph) {
    return call("cuStreamEndCapture", kContext, [&] {
        Stream& stream = stream_of(handle);
        *graph = nullptr;
        if (!stream.capture) refuse(kIllegalState, "the stream is not captured");
        if (stream.capture->mode != kRelaxed && stream.capture->thread != std::this_thread::get_id()) {
            refuse(kCaptureWrongThread, "another thread has begun the capture");
        }
        const std::unique_ptr<Capture> capture = std::move(stream.capture);
        forget_captured_events(*capture);
        if (capture->is_invalid) return kCaptureInvalidated;
        auto captured = std::make_shared<Graph>();
        captured->context = current_context();
        captured->nodes = std::make_shared<const std::vector<Work>>(std::move(capture->nodes));
        *graph = driver().graphs.add(std::move(captured));
        return kSuccess;
    });
}

SOFTGPU_API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    return call("cuGraphInstantiateWithFlags", kContext, [&] {
        const Graph& from = *driver().graphs.get(graph);
        if (flags & ~15ull) refuse(kInvalidValue, concat("flags ", flags));
        *executable = driver().executables.add(std::make_shared<Graph>(Graph{current_context(), from.nodes}));
        return kSuccess;
    });
}

SOFTGPU_API cuGraphUpload(void* executable, void* stream_handle) {
    return call("cuGraphUpload", kContext, [&] {
        const Stream& stream = stream_of(stream_handle);
        driver().executables.get(executable);
        if (stream.capture) refuse(kCaptureUnsupported, "the stream is being captured");
        return kSuccess;
    });
}

SOFTGPU_API cuGraphLaunch(void* executable, void* stream_handle) {
    return call("cuGraphLaunch", kContext, [&]() -> int {
        Stream& stream = stream_of(stream_handle);
        const std::shared_ptr<Graph> graph = driver().executables.get(executable);
        if (stream.capture) refuse(kCaptureUnsupported, "a graph within a graph is not covered");
        for (Work work : *graph->nodes) {
            if (auto* record = std::get_if<RecordWork>(&work)) {
                record->record = record->event->record = std::make_shared<EventRecord>();
                record->record->stream = &stream;
            }
            if (const int code = submit(stream, std::move(work))) return code;
        }
        return kSuccess;
    });
}

SOFTGPU_API cuGraphExecDestroy(void* executable) {
    return call("cuGraphExecDestroy", kStarted, [&] {
        driver().executables.remove(executable);
        return kSuccess;
    });
}

SOFTGPU_API cuGraphDestroy(void* graph) {
    return call("cuGraphDestroy", kStarted, [&] {
        driver().graphs.remove(graph);
        return kSuccess;
    });
}

}  // namespace softgpu
