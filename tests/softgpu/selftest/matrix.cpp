// ldmatrix and mma as a product of matrices in memory, and asynchronous copies.
#include <random>

#include "selftest.hpp"

namespace selftest {
namespace {

constexpr size_t kM = 16, kN = 8, kK = 16;

// In bytes of shared memory, which is filled from the buffer.
constexpr size_t kA = 0, kBColumns = 512, kC = 768, kBRows = 1280, kTotal = 1792;
constexpr size_t kResultWord = 2048;

struct Problem {
    float a[kM][kK], b[kK][kN], c[kM][kN];
    std::vector<uint32_t> words = std::vector<uint32_t>(kWords);

    void put_bf16(size_t byte, float value) { words[byte / 4] |= bits_of(value) >> 16 << (byte % 4 * 8); }

    Problem() {
        std::mt19937 random(7);
        const auto quarters = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8) / 4; };
        for (size_t row = 0; row < kM; row++) {
            for (size_t k = 0; k < kK; k++) put_bf16(kA + 2 * (row * kK + k), a[row][k] = quarters());
        }
        for (size_t k = 0; k < kK; k++) {
            for (size_t column = 0; column < kN; column++) {
                b[k][column] = quarters();
                put_bf16(kBColumns + 2 * (column * kK + k), b[k][column]);
                put_bf16(kBRows + 2 * (k * kN + column), b[k][column]);
            }
        }
        for (size_t row = 0; row < kM; row++) {
            for (size_t column = 0; column < kN; column++) {
                c[row][column] = quarters();
                words[kC / 4 + row * kN + column] = bits_of(c[row][column]);
            }
        }
    }
};

const char* const kFillShared = R"(
    mov.u32 %r33, sh;
    mov.u32 %r30, 0;
    COPY:
    mad.lo.s32 %r31, %r30, 32, %r1;
    mul.wide.u32 %d2, %r31, 4;
    add.s64 %d2, %d0, %d2;
    ld.global.u32 %r32, [%d2];
    mad.lo.s32 %r34, %r31, 4, %r33;
    st.shared.u32 [%r34], %r32;
    add.s32 %r30, %r30, 1;
    setp.lt.u32 %p1, %r30, 14;
    @%p1 bra COPY;
    bar.sync 0;
)";

// Lane l gives row l % 16, half l / 16 of the columns.
const char* const kLoadA = R"(
    and.b32 %r2, %r1, 15;
    shr.u32 %r3, %r1, 4;
    mul.lo.s32 %r4, %r2, 32;
    mad.lo.s32 %r4, %r3, 16, %r4;
    add.s32 %r4, %r4, %r33;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r4];
)";
const char* const kLoadBFromColumns = R"(
    and.b32 %r2, %r1, 7;
    shr.u32 %r3, %r1, 3;
    and.b32 %r3, %r3, 1;
    mul.lo.s32 %r4, %r2, 32;
    mad.lo.s32 %r4, %r3, 16, %r4;
    add.s32 %r4, %r4, %r33;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r20, %r21}, [%r4+512];
)";
const char* const kLoadBFromRows = R"(
    and.b32 %r2, %r1, 15;
    mul.lo.s32 %r4, %r2, 16;
    add.s32 %r4, %r4, %r33;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r20, %r21}, [%r4+1280];
)";
// C and D: rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
const char* const kMultiply = R"(
    shr.u32 %r2, %r1, 2;
    and.b32 %r3, %r1, 3;
    mul.lo.s32 %r4, %r2, 32;
    mad.lo.s32 %r4, %r3, 8, %r4;
    add.s32 %r5, %r4, %r33;
    ld.shared.v2.f32 {%f1, %f2}, [%r5+768];
    ld.shared.v2.f32 {%f3, %f4}, [%r5+1024];
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
        {%f5, %f6, %f7, %f8}, {%r10, %r11, %r12, %r13}, {%r20, %r21}, {%f1, %f2, %f3, %f4};
    cvt.u64.u32 %d3, %r4;
    add.s64 %d3, %d0, %d3;
    st.global.v2.f32 [%d3+8192], {%f5, %f6};
    st.global.v2.f32 [%d3+8448], {%f7, %f8};
)";

Result multiply(const Problem& problem, const char* load_b) {
    static_assert(kTotal == 14 * 32 * 4, "what kFillShared copies");
    Run how;
    how.input = problem.words;
    const std::string body = std::string(kFillShared) + kLoadA + load_b + kMultiply;
    return run(kernel_text(body, ".shared .align 16 .b8 sh[1792];"), how);
}

// Holds the product from word `first` on to sums that are exact in small quarters.
template <class Sum>
void check_elements(const Result& result, size_t first, const Sum& sum) {
    for (size_t row = 0; row < kM; row++) {
        for (size_t column = 0; column < kN; column++) {
            check(float_of(result.words[first + row * kN + column]) == sum(row, column), "an element of a product");
        }
    }
}

void products() {
    open_session();
    const Problem problem;
    for (const char* load_b : {kLoadBFromColumns, kLoadBFromRows}) {
        const Result result = multiply(problem, load_b);
        check_equal("mma runs", result.code, 0);
        check_elements(result, kResultWord, [&problem](size_t row, size_t column) {
            float sum = problem.c[row][column];
            for (size_t k = 0; k < kK; k++) sum += problem.a[row][k] * problem.b[k][column];
            return sum;
        });
    }
    close_session();
}

// A (16x8) from word 0, B (8x8) from word 128, C (16x8) from word 192, D to word 320. With group = lane / 4 and k =
// lane % 4, a lane has of A rows group and group + 8 at k and k + 4, of B column group at k and k + 4.
const char* const kMultiplyTf32 = R"(
    shr.u32 %r2, %r1, 2;
    and.b32 %r3, %r1, 3;
    mul.lo.s32 %r4, %r2, 32;
    mad.lo.s32 %r4, %r3, 4, %r4;
    cvt.u64.u32 %d2, %r4;
    add.s64 %d2, %d0, %d2;
    ld.global.u32 %r10, [%d2];
    ld.global.u32 %r11, [%d2+256];
    ld.global.u32 %r12, [%d2+16];
    ld.global.u32 %r13, [%d2+272];
    mul.lo.s32 %r4, %r3, 32;
    mad.lo.s32 %r4, %r2, 4, %r4;
    cvt.u64.u32 %d2, %r4;
    add.s64 %d2, %d0, %d2;
    ld.global.u32 %r20, [%d2+512];
    ld.global.u32 %r21, [%d2+640];
    mul.lo.s32 %r4, %r2, 32;
    mad.lo.s32 %r4, %r3, 8, %r4;
    cvt.u64.u32 %d3, %r4;
    add.s64 %d3, %d0, %d3;
    ld.global.v2.f32 {%f1, %f2}, [%d3+768];
    ld.global.v2.f32 {%f3, %f4}, [%d3+1024];
    mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
        {%f5, %f6, %f7, %f8}, {%r10, %r11, %r12, %r13}, {%r20, %r21}, {%f1, %f2, %f3, %f4};
    st.global.v2.f32 [%d3+1280], {%f5, %f6};
    st.global.v2.f32 [%d3+1536], {%f7, %f8};
)";

void products_in_tf32() {
    open_session();
    Run how;
    how.input.resize(kWords);
    std::mt19937 random(11);
    for (size_t word = 0; word < 320; word++) {
        how.input[word] = bits_of(static_cast<float>(static_cast<int>(random() % 17) - 8) / 4);
    }
    const std::vector<uint32_t> exact = how.input;
    for (size_t word = 0; word < 192; word++) how.input[word] |= random() % 0x2000;  // bits that are ignored
    const Result result = run(kernel_text(kMultiplyTf32, ""), how);
    check_equal("mma of tf32 runs", result.code, 0);
    check_elements(result, 320, [&exact](size_t row, size_t column) {
        float sum = float_of(exact[192 + row * kN + column]);
        for (size_t k = 0; k < 8; k++) sum += float_of(exact[row * 8 + k]) * float_of(exact[128 + k * kN + column]);
        return sum;
    });
    close_session();
}

// 1 + 1.5 * 2^-24, of which f32 has the neighbours 1 and 1 + 2^-23.
uint32_t sum_with_a_small_part() {
    Problem problem;
    std::fill(problem.words.begin(), problem.words.end(), 0);
    problem.put_bf16(kA, 1);
    problem.put_bf16(kBColumns, float_of(0x33c00000));  // 1.5 * 2^-24
    problem.words[kC / 4] = bits_of(1);
    return multiply(problem, kLoadBFromColumns).words[kResultWord];
}

void rounded() {
    open_session();
    check_equal("mma rounds to the nearest", sum_with_a_small_part(), 0x3f800001);
    close_session();
}

void truncated() {
    open_session();
    check_equal("mma cuts with SOFTGPU_MMA=truncate", sum_with_a_small_part(), 0x3f800000);
    close_session();
}

// 16 bytes a lane; the argument %r0 is free for the copy.
Result copy(const std::string& instructions, uint32_t argument, const std::string& wait,
            unsigned stride = 16) {
    Run how;
    how.argument = argument;
    for (uint32_t word = 0; word < kWords; word++) how.input.push_back(0x1000 + word);
    const std::string set_stride = "mov.u32 %r35, " + std::to_string(stride) + ";\n";
    const std::string addresses = R"(
        mov.u32 %r33, sh;
        mad.lo.u32 %r34, %r1, %r35, %r33;
        mul.wide.u32 %d2, %r1, %r35;
        add.s64 %d2, %d0, %d2;
        setp.ne.u32 %p1, %r0, 0;
    )";
    const std::string read_back = R"(
        ld.shared.u32 %r2, [%r34];
        ld.shared.u32 %r3, [%r34+4];
        mul.wide.u32 %d3, %r1, 8;
        add.s64 %d3, %d0, %d3;
        st.global.v2.u32 [%d3], {%r2, %r3};
    )";
    const std::string body = set_stride + addresses + instructions + wait + read_back;
    return run(kernel_text(body, ".shared .align 16 .b8 sh[528];"), how);
}

void copies() {
    open_session();
    const std::string commit = "cp.async.commit_group;\n", wait = commit + "cp.async.wait_group 0;\n";
    const auto word = [](const Result& result, size_t index) {
        return static_cast<int64_t>(result.words[index]);
    };
    const std::string cg16 = "cp.async.cg.shared.global [%r34], [%d2], 16, %r0;\n";
    check_equal("cp.async of 16 bytes", word(copy(cg16, 16, wait), 7), 0x1000 + 3 * 4 + 1);
    check_equal("cp.async reads 4 of 16 bytes", word(copy(cg16, 4, wait), 6), 0x1000 + 3 * 4);
    check_equal("cp.async fills with zeros", word(copy(cg16, 4, wait), 7), 0);
    check_equal("cp.async of no bytes", word(copy(cg16, 0, wait), 6), 0);
    const std::string ca8 = "cp.async.ca.shared.global [%r34], [%d2], 8;\n";
    check_equal("cp.async of 8 bytes", word(copy(ca8, 0, wait, 8), 3), 0x1000 + 3);
    const std::string ca4 = "cp.async.ca.shared.global [%r34], [%d2], 4;\n";
    check_equal("cp.async of 4 bytes", word(copy(ca4, 0, wait, 4), 2), 0x1001);
    const std::string ignoring = "cp.async.ca.shared.global [%r34], [%d2], 4, %p1;\n";
    check_equal("cp.async that ignores its source", word(copy(ignoring, 1, wait, 4), 2), 0);
    check_equal("cp.async that does not ignore it", word(copy(ignoring, 0, wait, 4), 2), 0x1001);
    check_equal("a group that nothing waits for has not arrived",
                word(copy(cg16, 16, commit + "cp.async.wait_group 1;\n"), 6), 0xffffffff);
    check_equal("the older of two groups has",
                word(copy(cg16, 16, commit + commit + "cp.async.wait_group 1;\n"), 6), 0x100c);
    check_equal("wait_all waits for what was not committed", word(copy(cg16, 16, "cp.async.wait_all;\n"), 6),
                0x100c);
    take_log();
    planted("copies that nothing waits for", copy(cg16, 16, commit).code, 0, "note");
    planted("cp.async that reads more than it writes", copy(cg16, 17, wait).code, 719);
    reopen_session();
    close_session();
}

}  // namespace

std::vector<Group> matrix_groups() {
    return {
        {"products", {}, products},
        {"products in tf32", {}, products_in_tf32},
        {"rounding of mma", {}, rounded},
        {"truncation of mma", {{"SOFTGPU_MMA", "truncate"}}, truncated},
        {"asynchronous copies", {}, copies},
    };
}

}  // namespace selftest
