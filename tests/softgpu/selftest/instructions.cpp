// Instructions of one lane, held to the PTX ISA's pseudocode and tables.
#include <cmath>

#include "selftest.hpp"

namespace selftest {
namespace {

// The lane's word is in %r2 and in %f2, the result is taken from %r3.
void gives(const std::string& body, uint32_t input, uint32_t expected) {
    const std::string load = "ld.global.u32 %r2, [%d1];\nmov.b32 %f2, %r2;\n";
    Run how;
    how.block = 1;
    how.input = {input};
    const Result result = run(kernel_text(load + body + "\nst.global.u32 [%d1], %r3;"), how);
    check_equal(body + " runs", result.code, 0);
    char text[40];
    snprintf(text, sizeof text, " of %#010x", input);
    check_equal(body + text, result.words[0], expected);
}

// The result is a float in %f3, and a predicate in %p1.
void gives_float(const std::string& body, uint32_t input, uint32_t expected) {
    gives(body + " mov.b32 %r3, %f3;", input, expected);
}
void gives_predicate(const std::string& body, uint32_t input, bool expected) {
    gives(body + " selp.u32 %r3, 1, 0, %p1;", input, expected);
}

constexpr uint32_t kNan = 0x7fc00000, kOtherNan = 0xffc12345, kCanonicalNan = 0x7fffffff;
constexpr uint32_t kMinusZero = 0x80000000, kSubnormal = 0x00400000, kInfinity = 0x7f800000;
constexpr uint32_t kMinusInfinity = 0xff800000;

void integers() {
    open_session();
    gives("mul.hi.u32 %r3, %r2, 0xffffffff;", 0xffffffff, 0xfffffffe);
    gives("mul.hi.s32 %r3, %r2, -1;", 0xffffffff, 0);
    gives("mad.lo.s32 %r3, %r2, 3, -1;", 5, 14);
    gives("mul.wide.s32 %d2, %r2, -2; shr.u64 %d2, %d2, 32; cvt.u32.u64 %r3, %d2;", 0x40000000, 0xffffffff);
    gives("div.s32 %r3, %r2, -2;", static_cast<uint32_t>(-7), 3);
    gives("div.s32 %r3, %r2, -1;", 0x80000000, 0x80000000);
    gives("rem.s32 %r3, %r2, 3;", static_cast<uint32_t>(-7), static_cast<uint32_t>(-1));
    gives("abs.s32 %r3, %r2;", 0x80000000, 0x80000000);
    gives("lop3.b32 %r3, %r2, 0x0f0f0f0f, 0xffff0000, 0x96;", 0x12345678,
          0x12345678u ^ 0x0f0f0f0fu ^ 0xffff0000u);
    gives("popc.b32 %r3, %r2;", 0xf0f00001, 9);
    gives("clz.b32 %r3, %r2;", 0, 32);
    gives("brev.b32 %r3, %r2;", 0x00000003, 0xc0000000);
    gives("prmt.b32 %r3, %r2, 0x00010203, 0x3715;", 0x8899aabb, 0x8800aa02);
    gives("prmt.b32 %r3, %r2, 0, 0xba98;", 0x807fff01, 0xff00ff00);
    gives("mov.u32 %r3, 0; { .reg .b32 %t; mov.b32 %t, %r2; add.s32 %r3, %t, %r3; }", 77, 77);
    // 16 bits are signed or not as each instruction says, whatever filled the register.
    gives("cvt.s16.s32 %h1, %r2; max.u16 %h2, %h1, 1; cvt.u32.u16 %r3, %h2;", 0xffff8000, 0x8000);
    gives("mov.b32 {%h1, %h2}, %r2; setp.eq.s16 %p1, %h2, -2; selp.b32 %r3, 1, 0, %p1;", 0xfffe0000, 1);
    gives("cvt.u16.u32 %h1, %r2; sub.s16 %h1, %h1, 1; shr.u16 %h1, %h1, 4; cvt.u32.u16 %r3, %h1;", 0, 0x0fff);
    close_session();
}

void shifts_and_fields() {
    open_session();
    gives("shl.b32 %r3, %r2, 40;", 7, 0);
    gives("shr.s32 %r3, %r2, 40;", 0x80000000, 0xffffffff);
    gives("shr.u32 %r3, %r2, 33;", 0x80000000, 0);
    gives("shf.l.wrap.b32 %r3, %r2, 0x00000001, 36;", 0xf0000000, 0x0000001f);
    gives("shf.l.clamp.b32 %r3, %r2, 0x00000001, 36;", 0xf0000000, 0xf0000000);
    gives("shf.l.clamp.b32 %r3, %r2, 0x00000001, 0;", 0xf0000000, 0x00000001);
    gives("shf.r.wrap.b32 %r3, %r2, 0x0000000a, 36;", 0xf0000000, 0xaf000000);
    gives("shf.r.clamp.b32 %r3, %r2, 0x0000000a, 36;", 0xf0000000, 0x0000000a);
    gives("bfi.b32 %r3, %r2, 0xffffffff, 8, 4;", 0x5, 0xfffff5ff);
    gives("bfi.b32 %r3, %r2, 0xffffffff, 28, 32;", 0x5, 0x5fffffff);
    gives("bfi.b32 %r3, %r2, 0x12345678, 8, 0;", 0xffffffff, 0x12345678);
    gives("bfi.b32 %r3, %r2, 0x12345678, 40, 4;", 0xffffffff, 0x12345678);
    gives("bfe.s32 %r3, %r2, 4, 8;", 0x00000f80, 0xfffffff8);
    gives("bfe.u32 %r3, %r2, 28, 16;", 0xf0000000, 0xf);
    gives("bfe.s32 %r3, %r2, 28, 16;", 0xf0000000, 0xffffffff);
    gives("bfe.s32 %r3, %r2, 40, 4;", 0x80000000, 0xffffffff);
    gives("bfe.s32 %r3, %r2, 4, 0;", 0xffffffff, 0);
    close_session();
}

void floats() {
    open_session();
    gives_float("fma.rn.f32 %f3, %f2, %f2, 0fBF800002;", 0x3f800001,
                0x28800000);  // exact before it is rounded
    gives_float("fma.rm.f32 %f3, %f2, 0f3F800001, 0f3F800000;", 0x3f800001, 0x40000001);
    gives_float("fma.rp.f32 %f3, %f2, 0f3F800001, 0f3F800000;", 0x3f800001, 0x40000002);
    gives_float("add.rz.f32 %f3, %f2, 0f33000001;", bits_of(1), bits_of(1));
    gives_float("add.rp.f32 %f3, %f2, 0f33000001;", bits_of(1), 0x3f800001);
    gives_float("add.f32 %f3, %f2, 0f3F800000;", kOtherNan, kCanonicalNan);
    gives_float("sub.f32 %f3, %f2, %f2;", kInfinity, kCanonicalNan);
    gives_float("mul.ftz.f32 %f3, %f2, 0f4B000000;", kSubnormal, 0);
    gives_float("mul.f32 %f3, %f2, 0f40000000;", kSubnormal, 0x00800000);
    gives_float("mul.sat.f32 %f3, %f2, 0f40000000;", bits_of(3), bits_of(1));
    gives_float("add.sat.f32 %f3, %f2, 0f00000000;", kNan, 0);
    gives_float("max.f32 %f3, %f2, 0f3F800000;", kNan, bits_of(1));
    gives_float("min.f32 %f3, 0f3F800000, %f2;", kNan, bits_of(1));
    gives_float("max.f32 %f3, %f2, %f2;", kOtherNan, kCanonicalNan);
    gives_float("min.f32 %f3, %f2, 0f00000000;", kMinusZero, kMinusZero);
    gives_float("max.f32 %f3, %f2, 0f00000000;", kMinusZero, 0);
    gives_float("max.ftz.f32 %f3, %f2, 0fBF800000;", kSubnormal, 0);
    gives_float("neg.f32 %f3, %f2;", 0, kMinusZero);
    gives_float("abs.ftz.f32 %f3, %f2;", kMinusZero | kSubnormal, 0);
    gives_float("rcp.rn.f32 %f3, %f2;", kMinusZero, kMinusInfinity);
    gives_float("sqrt.rn.f32 %f3, %f2;", bits_of(2), 0x3fb504f3);
    gives_float("sqrt.rn.f32 %f3, %f2;", bits_of(-1), kCanonicalNan);
    gives_float("div.rn.f32 %f3, %f2, 0f40400000;", bits_of(1), 0x3eaaaaab);
    close_session();
}

void approximations() {
    open_session();
    gives_float("ex2.approx.ftz.f32 %f3, %f2;", bits_of(3), bits_of(8));
    gives_float("ex2.approx.ftz.f32 %f3, %f2;", kSubnormal, bits_of(1));
    gives_float("ex2.approx.ftz.f32 %f3, %f2;", bits_of(-130), 0);
    gives_float("ex2.approx.f32 %f3, %f2;", bits_of(-130), 0x00080000);
    gives_float("ex2.approx.ftz.f32 %f3, %f2;", kMinusInfinity, 0);
    gives_float("lg2.approx.f32 %f3, %f2;", 0x00080000, bits_of(-130));
    gives_float("lg2.approx.ftz.f32 %f3, %f2;", 0x00080000, kMinusInfinity);
    gives_float("lg2.approx.f32 %f3, %f2;", bits_of(-1), kCanonicalNan);
    gives_float("rsqrt.approx.f32 %f3, %f2;", kMinusZero, kMinusInfinity);
    gives_float("rsqrt.approx.ftz.f32 %f3, %f2;", kSubnormal, kInfinity);
    gives_float("rsqrt.approx.f32 %f3, %f2;", bits_of(4), bits_of(0.5));
    gives_float("rcp.approx.ftz.f32 %f3, %f2;", kMinusZero | kSubnormal, kMinusInfinity);
    gives_float("tanh.approx.f32 %f3, %f2;", kInfinity, bits_of(1));
    close_session();
}

void conversions() {
    open_session();
    const std::string to_bf16 = "cvt.rn.bf16.f32 %h1, %f2; mov.b32 %r3, {%h1, %h1};";
    gives(to_bf16, 0x3f808000, 0x3f803f80);  // a tie, to even
    gives(to_bf16, 0x3f818000, 0x3f823f82);
    gives(to_bf16, kOtherNan, 0x7fff7fff);
    gives("cvt.rn.bf16x2.f32 %r3, 0f3F800000, %f2;", bits_of(2), 0x3f804000);
    gives("cvt.rna.tf32.f32 %r3, %f2;", 0x3f801000, 0x3f802000);  // a tie, away from zero
    gives("cvt.rna.tf32.f32 %r3, %f2;", 0xbf800fff, 0xbf800000);
    gives("cvt.rna.tf32.f32 %r3, %f2;", 0x7f7ff000, kInfinity);
    gives("cvt.rna.tf32.f32 %r3, %f2;", kOtherNan, kCanonicalNan);
    gives("cvt.rzi.s32.f32 %r3, %f2;", bits_of(-3.9f), static_cast<uint32_t>(-3));
    gives("cvt.rni.s32.f32 %r3, %f2;", bits_of(2.5f), 2);
    gives("cvt.rpi.s32.f32 %r3, %f2;", bits_of(2.1f), 3);
    gives("cvt.rzi.s32.f32 %r3, %f2;", bits_of(3e9f), 0x7fffffff);
    gives("cvt.rzi.u32.f32 %r3, %f2;", bits_of(-1), 0);
    gives("cvt.rzi.u16.f32 %h1, %f2; cvt.u32.u16 %r3, %h1;", bits_of(1e9f), 0xffff);
    gives("cvt.rzi.s32.f32 %r3, %f2;", kNan, 0);
    gives("cvt.rzi.s64.f32 %d2, %f2; shr.u64 %d2, %d2, 32; cvt.u32.u64 %r3, %d2;", kNan, 0x80000000);
    gives("cvt.f64.f32 %e1, %f2; cvt.rzi.s32.f64 %r3, %e1;", kNan, 0x80000000);
    gives("cvt.f64.f32 %e1, %f2; cvt.rzi.u32.f64 %r3, %e1;", bits_of(4e9f), 4000000000u);
    gives_float("cvt.rmi.f32.f32 %f3, %f2;", bits_of(-1.5f), bits_of(-2));
    gives_float("cvt.sat.f32.f32 %f3, %f2;", kNan, 0);
    gives_float("cvt.sat.f32.f32 %f3, %f2;", bits_of(2), bits_of(1));
    gives_float("cvt.rn.f32.u32 %f3, %r2;", 0xffffffff, bits_of(4294967296.0f));
    gives_float("cvt.rn.f32.s32 %f3, %r2;", 0xffffffff, bits_of(-1));
    gives("cvt.s32.s8 %r3, %r2;", 0x12345680, 0xffffff80);
    gives("cvt.s64.s32 %d2, %r2; shr.u64 %d2, %d2, 32; cvt.u32.u64 %r3, %d2;", 0x80000000, 0xffffffff);
    gives("cvt.sat.s16.s32 %h1, %r2; cvt.s32.s16 %r3, %h1;", 100000, 0x7fff);
    gives("cvt.sat.u8.s32 %r3, %r2;", static_cast<uint32_t>(-5), 0);
    close_session();
}

void comparisons() {
    open_session();
    gives_predicate("setp.gtu.f32 %p1, %f2, 0f00000000;", kNan, true);
    gives_predicate("setp.gt.f32 %p1, %f2, 0f00000000;", kNan, false);
    gives_predicate("setp.ne.f32 %p1, %f2, 0f00000000;", kNan, false);
    gives_predicate("setp.neu.f32 %p1, %f2, 0f00000000;", kNan, true);
    gives_predicate("setp.equ.f32 %p1, %f2, 0f00000000;", kNan, true);
    gives_predicate("setp.num.f32 %p1, %f2, 0f00000000;", kNan, false);
    gives_predicate("setp.nan.f32 %p1, %f2, 0f00000000;", kNan, true);
    gives_predicate("setp.eq.f32 %p1, %f2, 0f00000000;", kMinusZero, true);
    gives_predicate("setp.gt.ftz.f32 %p1, %f2, 0f00000000;", kSubnormal, false);
    gives_predicate("setp.gt.f32 %p1, %f2, 0f00000000;", kSubnormal, true);
    gives_predicate("setp.lt.s32 %p1, %r2, 0;", 0xffffffff, true);
    gives_predicate("setp.lt.u32 %p1, %r2, 1;", 0xffffffff, false);
    gives_predicate("setp.eq.s32 %p2, %r2, 5; setp.lt.and.s32 %p3|%p1, %r2, 0, %p2;", 5, true);
    gives_predicate("setp.eq.s32 %p2, %r2, 5; setp.lt.or.s32 %p1, %r2, 0, !%p2;", 5, false);
    gives_predicate("setp.eq.s32 %p2, %r2, 5; xor.pred %p1, %p2, -1;", 5, false);
    close_session();
}

// Atomics of all lanes on one word.
void atomics() {
    open_session();
    const auto total = [](const std::string& body, uint32_t input) {
        Run how;
        how.input = {input};
        return run(kernel_text(body), how).words[0];
    };
    check_equal("atom.add", total("atom.global.add.u32 %r2, [%d0], %r1;", 7), 7 + 31 * 16);
    check_equal("red.max.s32", total("red.global.max.s32 [%d0], %r1;", 0xfffffff0), 31);
    check_equal("atom.cas", total("atom.global.cas.b32 %r2, [%d0], %r1, 100;", 20), 100);
    check_equal("atom.inc", total("atom.global.inc.u32 %r2, [%d0], 9;", 0), 2);
    close_session();
}

}  // namespace

std::vector<Group> instruction_groups() {
    return {
        {"integers", {}, integers},       {"shifts and fields", {}, shifts_and_fields},
        {"floats", {}, floats},           {"approximations", {}, approximations},
        {"conversions", {}, conversions}, {"comparisons", {}, comparisons},
        {"atomics", {}, atomics},
    };
}

}  // namespace selftest
