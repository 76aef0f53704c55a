// Streams and events.
#include "driver.hpp"

namespace softgpu {
namespace {

constexpr unsigned kDisableTiming = 2;   // of an event
constexpr unsigned kRecordExternal = 1;  // of a recording

// A call that is not allowed on a stream being captured ends the capture.
void refuse_if_captured(Stream& stream) {
    if (!stream.capture) return;
    stream.capture->is_invalid = true;
    refuse(kCaptureUnsupported, "the stream is being captured");
}

int record_event(const void* event_handle, const void* stream_handle, unsigned flags) {
    const std::shared_ptr<Event> event = driver().events.get(event_handle);
    Stream& stream = stream_of(stream_handle);
    if (event->context != stream.context) refuse(kInvalidHandle, "event and stream belong to two contexts");
    if (flags & ~kRecordExternal) refuse(kInvalidValue, concat("flags ", flags));
    if (stream.capture) {
        if (flags == kRecordExternal) return submit(stream, RecordWork{nullptr, event});
        event->captured = stream.capture.get();
        return kSuccess;
    }
    if (flags == kRecordExternal) say("note", "an external event is recorded outside a capture");
    event->captured = nullptr;
    event->record = std::make_shared<EventRecord>();
    event->record->stream = &stream;
    return submit(stream, RecordWork{event->record, nullptr});
}

const Event& uncaptured_event(const void* handle) {
    const Event& event = *driver().events.get(handle);
    if (event.captured) refuse(kCapturedEvent, "the event was recorded in a capture");
    return event;
}

const EventRecord& timed_record(const void* handle) {
    const Event& event = uncaptured_event(handle);
    if (event.flags & kDisableTiming) refuse(kInvalidHandle, "the event has no timing");
    if (!event.record) refuse(kInvalidHandle, "the event was never recorded");
    return *event.record;
}

}  // namespace

SOFTGPU_API cuStreamCreate(void** handle, unsigned flags) {
    return call("cuStreamCreate", kContext, [&] {
        if (flags > 1) refuse(kInvalidValue, concat("flags ", flags));
        auto stream = std::make_shared<Stream>();
        stream->context = current_context();
        *handle = driver().streams.add(std::move(stream));
        return kSuccess;
    });
}

SOFTGPU_API cuStreamDestroy_v2(void* handle) {
    return call("cuStreamDestroy", kContext, [&] {
        Stream& stream = stream_of(handle);
        if (stream.capture) {
            say("note", "a stream is destroyed while it is captured");
            forget_captured_events(*stream.capture);
        }
        if (!stream.queue.empty()) say("note", "a stream is destroyed with work under way");
        drain(stream);
        driver().streams.remove(handle);
        return kSuccess;
    });
}

SOFTGPU_API cuStreamSynchronize(void* handle) {
    return call("cuStreamSynchronize", kContext, [&] {
        Stream& stream = stream_of(handle);
        refuse_if_captured(stream);
        wait_for(stream);
        return stream.context->sticky;
    });
}

SOFTGPU_API cuEventCreate(void** handle, unsigned flags) {
    return call("cuEventCreate", kContext, [&] {
        if (flags & ~7u) refuse(kInvalidValue, concat("flags ", flags));
        auto event = std::make_shared<Event>();
        event->context = current_context();
        event->flags = flags;
        *handle = driver().events.add(std::move(event));
        return kSuccess;
    });
}

SOFTGPU_API cuEventDestroy_v2(void* handle) {
    return call("cuEventDestroy", kStarted, [&] {
        driver().events.remove(handle);
        return kSuccess;
    });
}

SOFTGPU_API cuEventRecord(void* event, void* stream) {
    return call("cuEventRecord", kContext, [&] { return record_event(event, stream, 0); });
}

SOFTGPU_API cuEventRecordWithFlags(void* event, void* stream, unsigned flags) {
    return call("cuEventRecordWithFlags", kContext, [&] { return record_event(event, stream, flags); });
}

SOFTGPU_API cuStreamWaitEvent(void* stream_handle, void* handle, unsigned flags) {
    return call("cuStreamWaitEvent", kContext, [&]() -> int {
        Stream& stream = stream_of(stream_handle);
        const Event& event = uncaptured_event(handle);
        if (flags != 0) refuse(kInvalidValue, concat("flags ", flags));
        if (stream.capture) refuse(kCaptureUnsupported, "a captured stream that waits for another is not covered");
        // What is recorded later does not count, and never recorded is over.
        return event.record ? submit(stream, WaitWork{event.record}) : stream.context->sticky;
    });
}

SOFTGPU_API cuEventSynchronize(void* handle) {
    return call("cuEventSynchronize", kContext | kUncaptured, [&] {
        const Event& event = uncaptured_event(handle);
        if (event.record && !event.record->is_done) {
            host_waits(*event.context, [&] { drain_until(*event.record); });
        }
        return current_context()->sticky;
    });
}

SOFTGPU_API cuEventQuery(void* handle) {
    return call("cuEventQuery", kContext, [&] {
        const Event& event = uncaptured_event(handle);
        return event.record && !event.record->is_done ? kNotReady : current_context()->sticky;
    });
}

SOFTGPU_API cuEventElapsedTime(float* milliseconds, void* start_handle, void* end_handle) {
    return call("cuEventElapsedTime", kContext, [&] {
        const EventRecord& start = timed_record(start_handle);
        const EventRecord& end = timed_record(end_handle);
        if (!start.is_done || !end.is_done) return kNotReady;
        const auto elapsed_ns = static_cast<int64_t>(end.time_ns - start.time_ns);
        *milliseconds = static_cast<float>(static_cast<double>(elapsed_ns) * 1e-6);
        return kSuccess;
    });
}

}  // namespace softgpu
