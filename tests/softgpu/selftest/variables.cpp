// The environment variables, what is alive at exit, and the report.
#include <cstdlib>

#include "selftest.hpp"

namespace selftest {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Group unreadable(const std::string& name, const std::string& value) {
    const std::string what = name + "=" + value;
    return {what, {{name, value}}, [what] { planted(what, cu("cuInit", 0u), 1, "limit"); }};
}

// The kernel's words become 3 + 5. Its inner braces stand in the first column.
const std::string kTwoAdditions = kernel_text(R"(
{
.reg .b32 %inner;
}
    mov.u32 %r2, 0;
    add.u32 %r2, %r2, 3;
    add.u32 %r2, %r2, 5;
    st.global.u32 [%d1], %r2;)");

Group edited(const std::string& edit, uint32_t expected) {
    return {"SOFTGPU_PTX_EDIT=" + edit, {{"SOFTGPU_PTX_EDIT", edit}}, [expected] {
                open_session();
                check_equal("the edited kernel", run(kTwoAdditions).words[0], expected);
                close_session();
            }};
}

void no_line_to_edit() {
    open_session();
    planted("an edit that matches no line", run(kTwoAdditions).code, 218, "limit");
    close_session();
}

void injected() {
    open_session();
    void* stream = session().stream;
    check_equal("the first call", cu("cuStreamSynchronize", stream), 0);
    planted("the second call fails as SOFTGPU_FAIL says", cu("cuStreamSynchronize", stream), 719, "injected");
    check_equal("the error stays", cu("cuStreamSynchronize", stream), 719);
    cu("cuDevicePrimaryCtxRelease_v2", 0);
}

void eager() {
    open_session();
    void* pinned = nullptr;
    cu("cuMemHostAlloc", &pinned, size_t{4}, 0u);
    const uint32_t word = 5;
    upload(session().buffer, &word, 4);
    download(pinned, session().buffer, 4);
    check_equal("work runs when it is queued", *static_cast<uint32_t*>(pinned), 5);
    cu("cuMemFreeHost", pinned);
    close_session();
}

// Two streams set a word, the first to 1 and the second to 2; it is the last of them that is read.
void two_streams(bool second_waits, uint32_t expected) {
    open_session();
    void *second = nullptr, *event = nullptr;
    check_equal("cuStreamCreate", cu("cuStreamCreate", &second, 0u), 0);
    check_equal("cuEventCreate", cu("cuEventCreate", &event, 0u), 0);
    cu("cuMemsetD8Async", session().buffer, static_cast<unsigned char>(1), size_t{4}, session().stream);
    cu("cuEventRecord", event, session().stream);
    if (second_waits) cu("cuStreamWaitEvent", second, event, 0u);
    cu("cuMemsetD8Async", session().buffer, static_cast<unsigned char>(2), size_t{4}, second);
    check_equal("cuStreamSynchronize", cu("cuStreamSynchronize", session().stream), 0);
    check_equal("cuStreamSynchronize", cu("cuStreamSynchronize", second), 0);
    uint32_t word = 0;
    download(&word, session().buffer, 4);
    cu("cuStreamSynchronize", session().stream);
    check_equal("the stream that was last", word, 0x01010101 * expected);
    cu("cuEventDestroy_v2", event);
    cu("cuStreamDestroy_v2", second);
    close_session();
}

void fused_and_split(uint32_t expected) {
    open_session();
    Run how;
    how.input = {0x3f800001};
    const std::string body = R"(
        ld.global.f32 %f1, [%d1];
        fma.rn.f32 %f2, %f1, %f1, 0fBF800002;
        st.global.f32 [%d1], %f2;)";
    check_equal("fma.rn.f32", run(kernel_text(body), how).words[0], expected);
    close_session();
}

void claims() {
    check_equal("cuInit", cu("cuInit", 0u), 0);
    int value = 0;
    char name[100] = "";
    size_t num_bytes = 0;
    cu("cuDeviceGetCount", &value);
    check_equal("devices", value, 3);
    cu("cuDriverGetVersion", &value);
    check_equal("driver", value, 12040);
    cu("cuDeviceGetAttribute", &value, 75, 2);
    check_equal("major capability", value, 8);
    cu("cuDeviceGetAttribute", &value, 76, 2);
    check_equal("minor capability", value, 6);
    cu("cuDeviceGetAttribute", &value, 16, 0);
    check_equal("multiprocessors", value, 28);
    cu("cuDeviceGetAttribute", &value, 97, 0);
    check_equal("shared memory", value, 101376);
    cu("cuDeviceTotalMem_v2", &num_bytes, 0);
    check_equal("memory", static_cast<int64_t>(num_bytes), 1024 << 20);
    cu("cuDeviceGetName", name, 100, 1);
    check(std::string(name) == "A small one #1", "name");
    void* context = nullptr;
    cu("cuDevicePrimaryCtxRetain", &context, 0);
    cu("cuCtxSetCurrent", context);
    void* module = nullptr;
    check_equal("PTX newer than the driver",
                cu("cuModuleLoadData", &module, static_cast<const void*>(kTwoAdditions.c_str())), 222);
    cu("cuDevicePrimaryCtxRelease_v2", 0);
}

// What is left alive on purpose is told after the process's last line.
Group leaking() {
    const auto body = [] {
        open_session();
        void *event = nullptr, *context = nullptr;
        cu("cuEventCreate", &event, 0u);
        cu("cuDevicePrimaryCtxRetain", &context, 0);
    };
    const auto after = [](const std::string& log, const std::string& report) {
        const char* const all[] = {"1 contexts retained more than once", "1 device allocations", "1 streams", "1 events"};
        for (const char* what : all) {
            check(has(log, std::string("softgpu: LEAK: ") + what + " still alive at exit"),
                  std::string(what) + " leak");
        }
        check(has(report, "\"leaks\": 4, "), "the report counts leaks");
    };
    return {"leaks", {}, body, after};
}

Group reporting() {
    const auto body = [] {
        open_session();
        run(kTwoAdditions);
        Run two_warps;
        two_warps.block = 64;
        const std::string racing = kernel_text("st.shared.u32 [sh], 5;", ".shared .align 4 .b8 sh[4];");
        planted("a race", run(racing, two_warps).code, 719);
        reopen_session();
        close_session();
    };
    const auto after = [](const std::string&, const std::string& report) {
        check(report.compare(0, 12, "{\"process\": ") == 0 && report.back() == '\n', "a report is one line");
        check(has(report, "\"cuLaunchKernel\": 2"), "calls are counted");
        check(has(report, "\"cuMemcpyHtoDAsync\": 2"), "calls are named without _v2");
        check(has(report, "\"waits\": 3, "), "waits are counted");
        check(has(report, "\"races\": 1, \"injected\": 0, "), "races are counted");
        check(has(report, "\"k\": {\"launches\": 1, "), "launches are counted");
        check(has(report, "\"covered\": \"11111111\""), "instructions that have run are marked");
    };
    return {"report", {{"SOFTGPU_RACES", "1"}}, body, after};
}

Group covering() {
    const auto body = [] {
        open_session();
        run(kernel_text(R"(
            setp.eq.u32 %p1, %r1, 99;
            @%p1 bra NEVER;
            ret;
            .loc 1 7 3
            NEVER:
            st.shared.u32 [sh], %r1;)",
                        ".shared .align 4 .b8 sh[4];\n.loc 1 2 1\n", ".file 1 \"some/folder/k.cu\"\n"));
        close_session();
    };
    const auto after = [](const std::string&, const std::string& report) {
        check(has(report, "\"covered\": \"11111111100\""), "instructions that have not run are marked");
        check(has(report, "\"k.cu:2\", \"k.cu:7\", \"k.cu:7\"]"), "instructions have their source");
        check(has(report, "\"instructions\": 9, "), "instructions of warps are counted");
    };
    return {"coverage", {}, body, after};
}

}  // namespace

std::vector<Group> variable_groups() {
    return {
        unreadable("SOFTGPU_SPEED", "1"),
        unreadable("SOFTGPU_SEED", "abc"),
        unreadable("SOFTGPU_EAGER", ""),
        unreadable("SOFTGPU_RACES", "3"),
        unreadable("SOFTGPU_THREADS", "0"),
        unreadable("SOFTGPU_CC", "ten"),
        unreadable("SOFTGPU_MMA", "exact"),
        unreadable("SOFTGPU_FAIL", "cuLaunchKernel:0"),
        unreadable("SOFTGPU_PTX_EDIT", "k|1|("),
        unreadable("SOFTGPU_PTX_EDIT", "k|1|(|x"),
        edited("k|1|add.u32 (%r2, %r2), [0-9]+|add.u32 $1, 100", 105),
        edited("k|2|add.u32|sub.u32", 0xfffffffe),
        edited("k|0|add.u32|sub.u32", 0xfffffff8),
        edited("other|1|no such line|", 8),
        edited("*|1|no such line|", 8),
        edited("*|1|3;|4;", 9),
        {"an edit without a line", {{"SOFTGPU_PTX_EDIT", "k|3|add.u32|sub.u32"}}, no_line_to_edit},
        {"injection", {{"SOFTGPU_FAIL", "cuStreamSynchronize:2:719!"}}, injected},
        {"eager", {{"SOFTGPU_EAGER", "1"}}, eager},
        {"streams as they must", {}, [] { two_streams(false, 2); }},
        {"streams as they may", {{"SOFTGPU_OTHERS_FIRST", "1"}}, [] { two_streams(false, 1); }},
        {"streams that wait", {{"SOFTGPU_OTHERS_FIRST", "1"}}, [] { two_streams(true, 2); }},
        {"fused", {}, [] { fused_and_split(0x28800000); }},
        {"split", {{"SOFTGPU_SPLIT_FMA", "1"}}, [] { fused_and_split(0); }},
        {"claims",
         {{"SOFTGPU_DEVICES", "3"},
          {"SOFTGPU_CC", "8.6"},
          {"SOFTGPU_SMS", "28"},
          {"SOFTGPU_SHARED", "101376"},
          {"SOFTGPU_MEM_MIB", "1024"},
          {"SOFTGPU_DRIVER", "12040"},
          {"SOFTGPU_NAME", "A small one"}},
         claims},
        leaking(),
        reporting(),
        covering(),
    };
}

}  // namespace selftest
