#include "products.hpp"

#include <algorithm>

namespace selftest {

const char* const kDeclarations = ".reg .f32 %s<129>;\n.shared .align 1024 .b8 sh[16384];\n";
const char* const kSeen = "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
const char* const kFence = "wgmma.fence.sync.aligned;\n";
const char* const kCommit = "wgmma.commit_group.sync.aligned;\n";
const char* const kWait = "wgmma.wait_group.sync.aligned 0;\n";

size_t Placement::byte_of(unsigned line, unsigned depth) const {
    const unsigned along = is_mn_major ? line : depth, row = is_mn_major ? depth : line;
    const unsigned chunks = row_bytes / 16, chunk = first_chunk + along / 8;
    // 128 bytes: rows 0 to 7 by their numbers; 64: two rows have the same; 32: four.
    const unsigned exchange = row % 8 * row_bytes / 128;
    size_t atom = row / 8 * stride + chunk / chunks * leading;
    if (row_bytes == 16 && is_mn_major) atom = row / 8 * leading + chunk * stride;
    return start + atom + row % 8 * row_bytes + (chunk % chunks ^ exchange) * 16 + along % 8 * 2;
}

uint64_t Placement::descriptor() const {
    const uint64_t mode = row_bytes == 16 ? 0 : row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;
    return uint64_t{(start + 16 * first_chunk) / 16} + (uint64_t{leading / 16} << 16) +
           (uint64_t{stride / 16} << 32) + (uint64_t{base_offset} << 49) + (mode << 62);
}

std::string fill_shared(const std::string& label) {
    return R"(
    mov.u32 %r33, sh;
    mov.u32 %r34, %ntid.x;
    mov.u32 %r30, %r1;
    )" + label + R"(:
    mul.wide.u32 %d2, %r30, 4;
    add.s64 %d2, %d0, %d2;
    ld.global.u32 %r32, [%d2];
    mad.lo.s32 %r35, %r30, 4, %r33;
    st.shared.u32 [%r35], %r32;
    add.s32 %r30, %r30, %r34;
    setp.lt.u32 %p1, %r30, 4096;
    @%p1 bra )" + label + ";\n";
}

std::string describe_bits(const std::string& a, const std::string& b) {
    return R"(
    shr.u32 %r36, %r33, 4;
    cvt.u64.u32 %d3, %r36;
    add.s64 %d4, %d3, )" +
           a + ";\n    add.s64 %d5, %d3, " + b + ";\n";
}

std::string describe(const Placement& a, const Placement& b) {
    return describe_bits(std::to_string(a.descriptor()), std::to_string(b.descriptor()));
}

std::string set_sums(unsigned num_columns) {
    std::string text;
    for (unsigned index = 0; index < num_columns / 2; index++) {
        const std::string number = std::to_string(index);
        text += "add.s32 %r37, %r1, " + number + ";\ncvt.rn.f32.u32 %s" + number + ", %r37;\n";
    }
    return text;
}

std::string product(unsigned num_columns, const std::string& flags) {
    std::string sums;
    for (unsigned index = 0; index < num_columns / 2; index++) {
        sums += (index == 0 ? "%s" : ", %s") + std::to_string(index);
    }
    return "wgmma.mma_async.sync.aligned.m64n" + std::to_string(num_columns) + "k16.f32.bf16.bf16 {" + sums +
           "}, %d4, %d5, " + flags + ";\n";
}

std::string store_sums(unsigned num_columns) {
    std::string text = "mul.wide.u32 %d6, %r1, 128;\nadd.s64 %d6, %d0, %d6;\n";
    for (unsigned first = 0; first < num_columns / 2; first += 32) {
        text += "setp.eq.u32 %p2, %r0, " + std::to_string(first / 32) + ";\n";
        for (unsigned index = first; index < std::min(first + 32, num_columns / 2); index++) {
            text += "@%p2 st.global.f32 [%d6+" + std::to_string(index % 32 * 4) + "], %s" + std::to_string(index) + ";\n";
        }
    }
    return text;
}

}  // namespace selftest
