// What the lanes of a warp do together, and how they come apart and meet again.
#include "selftest.hpp"

namespace selftest {
namespace {

// Every lane holds 100 + its number in %r2 and writes %r3.
template <class Expected>
void every_lane(const std::string& what, const std::string& body, Expected expected) {
    const Result result = run(kernel_text("add.u32 %r2, %r1, 100;\n" + body + "\nst.global.u32 [%d1], %r3;"));
    check_equal(what + " runs", result.code, 0);
    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t want = static_cast<uint32_t>(expected(lane));
        if (result.words[lane] != want) return check_equal(what, result.words[lane], want);
    }
    check(true, what);
}

void shuffles() {
    open_session();
    every_lane("shfl.bfly", "shfl.sync.bfly.b32 %r3|%p1, %r2, 5, 31, -1;",
               [](uint32_t lane) { return 100 + (lane ^ 5); });
    every_lane("shfl.down in segments of 8", R"(
        shfl.sync.down.b32 %r3|%p1, %r2, 4, 0x181f, -1;
        selp.b32 %r3, %r3, 0, %p1;)",
               [](uint32_t lane) { return lane % 8 < 4 ? 104 + lane : 0; });
    every_lane("shfl.up keeps its own value at the edge", "shfl.sync.up.b32 %r3|%p1, %r2, 3, 0, -1;",
               [](uint32_t lane) { return lane < 3 ? 100 + lane : 97 + lane; });
    every_lane("shfl.idx in segments of 16", "shfl.sync.idx.b32 %r3, %r2, 21, 0x101f, -1;",
               [](uint32_t lane) { return 100 + (lane & 16) + 5; });
    every_lane("shfl.down clamped to lane 7", "shfl.sync.down.b32 %r3|%p1, %r2, 1, 7, -1;",
               [](uint32_t lane) { return 100 + (lane < 7 ? lane + 1 : lane); });
    every_lane("shfl of half a warp", R"(
        mov.u32 %r3, 0;
        setp.lt.u32 %p2, %r1, 16;
        @%p2 shfl.sync.bfly.b32 %r3|%p1, %r2, 15, 31, 0xffff;)",
               [](uint32_t lane) { return lane < 16 ? 100 + (15 - lane) : 0; });
    close_session();
}

void votes() {
    open_session();
    const std::string below_8 = "setp.lt.u32 %p1, %r1, 8;\n";
    const auto constant = [](uint32_t value) { return [value](uint32_t) { return value; }; };
    every_lane("vote.ballot", below_8 + "vote.sync.ballot.b32 %r3, %p1, -1;", constant(0xff));
    every_lane("vote.all", below_8 + "vote.sync.all.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;",
               constant(0));
    every_lane("vote.any", below_8 + "vote.sync.any.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;",
               constant(1));
    every_lane("vote.uni", below_8 + "vote.sync.uni.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2;",
               constant(0));
    every_lane("vote.all of those that agree", below_8 + R"(
        mov.u32 %r3, 0;
        @%p1 vote.sync.all.pred %p2, %p1, 0xff;
        @%p1 selp.u32 %r3, 1, 0, %p2;)",
               [](uint32_t lane) { return lane < 8; });
    every_lane("activemask under a guard", below_8 + "mov.u32 %r3, 5;\n@%p1 activemask.b32 %r3;",
               [](uint32_t lane) { return lane < 8 ? 0xff : 5; });
    close_session();
}

void divergence() {
    open_session();
    every_lane("lanes meet again after a loop of their own length", R"(
        and.b32 %r2, %r1, 1;
        setp.eq.s32 %p1, %r2, 0;
        mov.u32 %r3, 0;
        @%p1 bra JOIN;
        LOOP:
        add.s32 %r3, %r3, 1;
        setp.lt.u32 %p2, %r3, %r1;
        @%p2 bra LOOP;
        JOIN:
        vote.sync.ballot.b32 %r4, %p1, -1;
        add.s32 %r3, %r3, %r4;)",
               [](uint32_t lane) { return 0x55555555u + (lane & 1 ? lane : 0); });
    every_lane("bar.warp.sync gathers both sides of a branch", R"(
        mov.u32 %r3, 1;
        setp.lt.u32 %p1, %r1, 10;
        @%p1 bra SIDE;
        mov.u32 %r3, 2;
        SIDE:
        bar.warp.sync -1;
        activemask.b32 %r4;
        mul.lo.u32 %r3, %r3, %r4;)",
               [](uint32_t lane) { return (lane < 10 ? 1 : 2) * 0xffffffffu; });
    every_lane("bar.sync gathers lanes that came apart", R"(
        setp.lt.u32 %p1, %r1, 10;
        @%p1 bra BARRIER;
        mov.u32 %r5, 1;
        BARRIER:
        bar.sync 0;
        activemask.b32 %r3;)",
               [](uint32_t) { return 0xffffffffu; });

    const Result result = run(kernel_text(R"(
        st.global.u32 [%d1], %r1;
        setp.ge.u32 %p1, %r1, 20;
        @%p1 ret;
        st.global.u32 [%d1], 77;
        @!%p1 exit;
        st.global.u32 [%d1], 88;)"));
    check_equal("a guarded ret", result.code, 0);
    check_equal("lanes before a guarded ret", result.words[19], 77);
    check_equal("lanes that a guarded ret ends", result.words[20], 20);
    close_session();
}

// Warps hand words to each other through shared memory.
void blocks() {
    open_session();
    Run how;
    how.block = 70;  // the last warp is not full
    const Result result = run(kernel_text(R"(
        mov.u32 %r2, sh;
        mad.lo.u32 %r3, %r1, 4, %r2;
        st.shared.u32 [%r3], %r1;
        bar.sync 0;
        sub.u32 %r4, 69, %r1;
        mad.lo.u32 %r3, %r4, 4, %r2;
        ld.shared.u32 %r5, [%r3];
        st.global.u32 [%d1], %r5;)",
                                          ".shared .align 4 .b8 sh[280];"),
                              how);
    check_equal("a barrier", result.code, 0);
    for (uint32_t thread = 0; thread < 70; thread += 23) {
        check_equal("through shared memory", result.words[thread], 69 - thread);
    }
    const Result unwritten = run(
        kernel_text("ld.shared.u32 %r3, [sh];\nst.global.u32 [%d1], %r3;", ".shared .align 4 .b8 sh[4];"));
    check_equal("shared memory that nothing has written", unwritten.words[0], 0xffffffffu);
    const Result fresh = run(kernel_text("st.global.u32 [%d1], %r59;"));
    check_equal("a register that nothing has written", fresh.words[0], 0xffffffffu);
    close_session();
}

// Blocks run on several host threads.
void many_blocks() {
    open_session();
    Run how;
    how.grid = 64;
    how.block = 96;
    const std::string body = R"(
        st.shared.u32 [sh], 1;
        bar.sync 0;
        ld.shared.u32 %r2, [sh];
        red.global.add.u32 [%d0], %r2;)";
    const Result result = run(kernel_text(body, ".shared .align 4 .b8 sh[4];"), how);
    check_equal("every thread of every block has run once", result.words[0], 64 * 96);

    // Where one block writes a register, another that does not must not see it: by a guard, and by another way.
    how.block = 1;
    const std::string even = R"(
        mov.u32 %r2, %ctaid.x;
        mul.wide.u32 %d2, %r2, 4;
        add.s64 %d2, %d0, %d2;
        and.b32 %r4, %r2, 1;
        setp.eq.u32 %p1, %r4, 0;
)";
    const std::string ways[] = {"@%p1 mov.u32 %r3, 7;\n@%p1 mov.u64 %d3, 7;",
                                "@!%p1 bra AFTER;\nmov.u32 %r3, 7;\nmov.u64 %d3, 7;\nAFTER:"};
    for (const std::string& way : ways) {
        const std::string both = "cvt.u32.u64 %r5, %d3;\nand.b32 %r3, %r3, %r5;\nst.global.u32 [%d2], %r3;";
        const Result registers = run(kernel_text(even + way + "\n" + both), how);
        for (uint32_t block = 0; block < 64; block++) {
            const uint32_t want = block % 2 == 0 ? 7 : 0xffffffff;
            check_equal("a register that another block has written", registers.words[block], want);
        }
    }
    close_session();
}

}  // namespace

std::vector<Group> warp_groups() {
    return {
        {"shuffles", {}, shuffles},
        {"votes", {}, votes},
        {"divergence", {}, divergence},
        {"blocks", {}, blocks},
        {"many blocks", {{"SOFTGPU_THREADS", "4"}}, many_blocks},
    };
}

}  // namespace selftest
