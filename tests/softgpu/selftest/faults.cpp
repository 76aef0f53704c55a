// Faults planted into kernels. Each must end the launch with the driver's error and be told.
#include "selftest.hpp"

namespace selftest {
namespace {

constexpr int kInvalidValue = 1, kInvalidPtx = 218, kIllegalAddress = 700, kMisaligned = 716, kIllegalInstruction = 715,
              kLaunchFailed = 719;

void plant(const std::string& what, int expected_code, const std::string& body, const Run& how = {},
           const std::string& declarations = "") {
    planted(what, run(kernel_text(body, declarations), how).code, expected_code);
    reopen_session();
}

Run threads(unsigned block, unsigned grid = 1) {
    Run how;
    how.block = block;
    how.grid = grid;
    return how;
}

const char* const kMma =
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
    "{%f5,%f6,%f7,%f8}, {%r10,%r11,%r12,%r13}, {%r20,%r21}, {%f1,%f2,%f3,%f4};";

void memory_faults() {
    open_session();
    const std::string shared = ".shared .align 4 .b8 sh[64];";
    plant("a write past the end", kIllegalAddress, "st.global.u32 [%d1+16384], %r1;");
    plant("a read before the beginning", kIllegalAddress, "ld.global.u32 %r2, [%d0+-4];");
    plant("an address next to 2^64", kIllegalAddress, "mov.u64 %d2, -4;\nld.global.u32 %r2, [%d2];");
    plant("a null pointer", kIllegalAddress, "mov.u64 %d2, 0;\nst.global.u32 [%d2], %r1;");
    plant("a misaligned vector", kMisaligned, "ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%d1];");
    plant("shared memory past the end", kIllegalAddress, "mov.u32 %r2, sh;\nst.shared.u32 [%r2+64], %r1;",
          threads(1), shared);
    plant("shared memory at 0", kIllegalAddress, "mov.u32 %r2, 0;\nld.shared.u32 %r3, [%r2];", threads(1),
          shared);
    plant("misaligned shared memory", kMisaligned, "mov.u32 %r2, sh;\nst.shared.u32 [%r2+2], %r1;",
          threads(1), shared);
    plant("a parameter past the end", kIllegalAddress, "ld.param.u32 %r2, [p1+4];");
    plant("trap", kIllegalInstruction, "trap;");
    close_session();
}

void warp_faults() {
    open_session();
    plant("a barrier that half the warps reach", kLaunchFailed,
          "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra END;\nbar.sync 0;\nEND:", threads(64));
    plant("a barrier that half a warp reaches", kLaunchFailed,
          "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra END;\nbar.sync 0;\nEND:");
    plant("a barrier after lanes have ended", kLaunchFailed,
          "setp.gt.u32 %p1, %r1, 15;\n@%p1 ret;\nbar.sync 0;");
    plant("a barrier under a predicate", kLaunchFailed, "setp.gt.u32 %p1, %r1, 15;\n@%p1 bar.sync 0;");
    plant("a shuffle with lanes that have ended", kLaunchFailed,
          "setp.gt.u32 %p1, %r1, 15;\n@%p1 ret;\nshfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;");
    plant("a shuffle that waits for lanes that end", kLaunchFailed, R"(
        setp.gt.u32 %p1, %r1, 15;
        @%p1 bra LATER;
        shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;
        LATER:)");
    plant("a shuffle whose mask leaves out a lane that runs it", kLaunchFailed,
          "shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, 0xffff;");
    plant("a shuffle from a lane that is not there", kLaunchFailed,
          "shfl.sync.bfly.b32 %r3|%p2, %r1, 16, 31, 0xffff;", threads(16));
    plant("mma of half a warp", kLaunchFailed, std::string("setp.gt.u32 %p1, %r1, 15;\n@%p1 ret;\n") + kMma);
    plant("mma of a block of 16", kLaunchFailed, kMma, threads(16));
    plant("lanes that wait for each other at two places", kLaunchFailed, R"(
        setp.gt.u32 %p1, %r1, 15;
        @%p1 bra THERE;
        bar.warp.sync -1;
        THERE:
        bar.warp.sync -1;
        @!%p1 bar.warp.sync -1;)");
    close_session();
}

void text_faults() {
    open_session();
    const auto refused = [](const std::string& what, const std::string& body) {
        planted(what, run(kernel_text(body)).code, kInvalidPtx, "limit");
    };
    refused("an instruction that is not covered", "mbarrier.init.shared.b64 [%d0], 1;");
    refused("a type that is not covered", "add.f16 %h1, %h1, %h1;");
    refused("an atomic that is not covered", "red.global.add.noftz.bf16x2 [%d0], %r1;");
    refused("a modifier that is not covered", "add.sat.s32 %r2, %r2, %r2;");
    refused("an addition in another width", "add.s32 %d3, %r1, %r1;");
    refused("32 bits where 16 are asked for", "add.s16 %r2, %h1, %h1;");
    refused("a register that is not declared", "mov.u32 %r2, %r60;");
    refused("a branch to nowhere", "bra NOWHERE;");
    refused("a result of mul without lo, hi or wide", "mul.s32 %r2, %r1, %r1;");
    refused("shf without a mode", "shf.l.b32 %r2, %r1, %r1, 3;");
    refused("a number with a letter in it", "mov.u32 %r2, 12q;");
    close_session();
}

void overlaps() {
    open_session();
    Run how;
    how.overlaps = true;
    const auto on_sm_90 = [](const std::string& body) { return on_target("sm_90", kernel_text(body)); };
    const auto plant_on_sm_90 = [&](const std::string& what, const std::string& body) {
        planted(what, run(on_sm_90(body), how).code, kLaunchFailed);
        reopen_session();
    };
    const std::string wait = "griddepcontrol.wait;\n", store = "st.global.u32 [%d1], 7;\n";
    const Result fine = run(on_sm_90("griddepcontrol.launch_dependents;\n" + wait + store), how);
    check_equal("a launch that waits first", fine.code, 0);
    check_equal("writes", fine.words[31], 7);
    plant_on_sm_90("a write before the wait", store + wait);
    plant_on_sm_90("a read before the wait", "ld.global.u32 %r2, [%d1];\n" + wait);
    plant_on_sm_90("an atomic before the wait", "red.global.add.u32 [%d0], 1;\n" + wait);
    plant_on_sm_90("a copy before the wait",
                   ".shared .align 16 .b8 sh[64];\nmov.u32 %r2, sh;\ncp.async.ca.shared.global [%r2], [%d0], 4;\n" +
                       wait);
    plant_on_sm_90("a lane that waits for itself alone",
                   "setp.eq.u32 %p1, %r1, 0;\n@%p1 griddepcontrol.wait;\n" + store);
    plant_on_sm_90("a kernel that never waits", "");
    how.overlaps = false;
    check_equal("what does not overlap need not wait", run(on_sm_90(store), how).code, 0);
    planted("griddepcontrol before sm_90", run(kernel_text(wait), how).code, kInvalidPtx, "limit");
    void *module = nullptr, *function = nullptr;
    const std::string text = on_sm_90(wait);
    cu("cuModuleLoadData", &module, static_cast<const void*>(text.c_str()));
    cu("cuModuleGetFunction", &function, module, "k");
    uint32_t argument = 0;
    void* parameters[] = {&session().buffer, &argument};
    planted("an attribute that is not covered", launch_with_attribute(2, function, how, parameters), kInvalidValue,
            "limit");
    cu("cuModuleUnload", module);
    close_session();
}

void overlaps_too_early() {
    open_session();
    Run how;
    how.overlaps = true;
    planted("a launch that overlaps on a GPU before 9.0", run(kernel_text(""), how).code, kInvalidValue);
    close_session();
}

const std::string kStoreOwn = R"(
    mov.u32 %r2, sh;
    mad.lo.s32 %r3, %r1, 4, %r2;
    st.shared.u32 [%r3], %r1;
    xor.b32 %r4, %r1, 32;
    mad.lo.s32 %r4, %r4, 4, %r2;
)";
const std::string kShared = ".shared .align 16 .b8 sh[4096];";

void shared_races() {
    open_session();
    const auto fine = [](const std::string& what, const std::string& body) {
        check_equal(what, run(kernel_text(body, kShared), threads(64)).code, 0);
        check(take_log().find("race") == std::string::npos, what + " is no race");
    };
    plant("a read of another warp's word without a barrier", kLaunchFailed,
          kStoreOwn + "ld.shared.u32 %r5, [%r4];", threads(64), kShared);
    fine("the same with a barrier", kStoreOwn + "bar.sync 0;\nld.shared.u32 %r5, [%r4];");
    plant("a write after another warp's read", kLaunchFailed,
          kStoreOwn +
              "bar.sync 0;\nld.shared.u32 %r5, [%r4];\n"
              "st.shared.u32 [%r3], 1;",
          threads(64), kShared);
    plant("two writes of the same value", kLaunchFailed, "mov.u32 %r2, sh;\nst.shared.u32 [%r2], 5;",
          threads(64), kShared);
    fine("one warp alone", "mov.u32 %r2, sh;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 st.shared.u32 [%r2], 5;");
    fine("bytes side by side",
         "mov.u32 %r2, sh;\nshr.u32 %r3, %r1, 5;\nadd.u32 %r2, %r2, %r3;\nst.shared.u8 [%r2], %r1;");
    fine("reads of the same word", "mov.u32 %r2, sh;\nld.shared.u32 %r3, [%r2];");
    plant("a copy that arrives while another warp reads", kLaunchFailed, R"(
        setp.lt.u32 %p1, %r1, 32;
        mov.u32 %r2, sh;
        @%p1 cp.async.ca.shared.global [%r2], [%d0], 4;
        bar.sync 0;
        @!%p1 ld.shared.u32 %r3, [%r2];
        @%p1 cp.async.wait_all;)",
          threads(64), kShared);
    fine("an atomic of all threads", "mov.u32 %r2, sh;\natom.shared.add.u32 %r3, [%r2], 1;");
    close_session();
}

void global_races() {
    open_session();
    const auto fine = [](const std::string& what, const std::string& body) {
        check_equal(what, run(kernel_text(body), threads(32, 8)).code, 0);
        check(take_log().find("race") == std::string::npos, what + " is no race");
    };
    const std::string own_word =
        "mov.u32 %r2, %ctaid.x;\nmul.wide.u32 %d2, %r2, 4;\nadd.s64 %d2, %d0, %d2;\n";
    plant("two blocks write the same value", kLaunchFailed, "st.global.u32 [%d0], 5;", threads(1, 2));
    plant("a block reads what another writes", kLaunchFailed, own_word + R"(
        st.global.u32 [%d2], 5;
        xor.b32 %r3, %r2, 1;
        mul.wide.u32 %d3, %r3, 4;
        add.s64 %d3, %d0, %d3;
        ld.global.u32 %r4, [%d3];)",
          threads(1, 2));
    fine("blocks with words of their own", own_word + "st.global.u32 [%d2], 5;\nld.global.u32 %r4, [%d2];");
    fine("bytes side by side",
         "mov.u32 %r2, %ctaid.x;\ncvt.u64.u32 %d2, %r2;\nadd.s64 %d2, %d0, %d2;\nst.global.u8 [%d2], %r2;");
    fine("reads of the same word", "ld.global.u32 %r2, [%d0];");
    fine("atomics on the same word", "red.global.add.u32 [%d0], 1;");
    close_session();
}

}  // namespace

std::vector<Group> fault_groups() {
    return {
        {"faults of memory", {}, memory_faults},
        {"faults of warps", {}, warp_faults},
        {"faults of the text", {}, text_faults},
        {"launches that overlap", {}, overlaps},
        {"overlaps before 9.0", {{"SOFTGPU_CC", "8.9"}}, overlaps_too_early},
        {"races on shared memory", {{"SOFTGPU_RACES", "1"}}, shared_races},
        {"races on global memory", {{"SOFTGPU_RACES", "2"}}, global_races},
    };
}

}  // namespace selftest
