// Faults planted into kernels that multiply by wgmma.
#include "products.hpp"

namespace selftest {
namespace {

constexpr int kInvalidPtx = 218, kNoBinaryForGpu = 209, kIllegalAddress = 700, kLaunchFailed = 719;

// Rows of A and columns of B in 16-byte chunks, A from 0 and B from 2048 bytes on.
Placement chunks(unsigned start) {
    Placement placed;
    placed.start = start;
    placed.stride = 256;
    placed.leading = 128;
    return placed;
}

Placement swizzled(unsigned start, unsigned row_bytes = 128) {
    Placement placed;
    placed.start = start;
    placed.row_bytes = row_bytes;
    placed.leading = 16;
    placed.stride = 8 * row_bytes;
    return placed;
}

const std::string kBegin = fill_shared() + kSeen, kSums = set_sums(8), kProduct = product(8);
const std::string kMatrices = describe(chunks(0), chunks(2048));
const std::string kCall = kSums + kFence + kProduct + kCommit;
const std::string kStore = store_sums(8);

Result multiply(const std::string& body, unsigned block = 128) {
    Run how;
    how.block = block;
    return run(on_target("sm_90a", kernel_text(body, kDeclarations)), how);
}

void plant(const std::string& what, const std::string& body, unsigned block = 128, int code = kLaunchFailed) {
    planted(what, multiply(body, block).code, code);
    reopen_session();
}

void fine(const std::string& what, const std::string& body, unsigned block = 128) {
    check_equal(what, multiply(body, block).code, 0);
    check(take_log().find("VIOLATION") == std::string::npos, what + " is nothing to object to");
}

void sums() {
    open_session();
    const std::string begin = kBegin + kMatrices;
    fine("a product", begin + kCall + kWait + kStore);
    plant("a sum read before the wait", begin + kCall + "add.f32 %f1, %s2, %s2;\n" + kWait);
    plant("a sum written before the wait", begin + kCall + "mov.f32 %s3, 0f00000000;\n" + kWait);
    plant("a sum stored before the wait", begin + kCall + kStore + kWait);
    plant("a wait that leaves the newest group", begin + kCall + "wgmma.wait_group.sync.aligned 1;\n" + kStore + kWait);
    plant("a product that was not committed", begin + kSums + kFence + kProduct + kWait + kStore + kCommit + kWait);
    plant("no wgmma.fence at all", begin + kSums + kProduct + kCommit + kWait);
    plant("a sum set after wgmma.fence", begin + kFence + kSums + kProduct + kCommit + kWait);
    plant("a sum read between products without wgmma.fence",
          begin + kCall + kWait + "mov.f32 %f1, %s0;\n" + kProduct + kCommit + kWait);
    fine("a sum read between products",
         begin + kCall + kWait + "mov.f32 %f1, %s0;\n" + kFence + kProduct + kCommit + kWait);
    const std::string wider = product(16);
    plant("sums of a product of another shape under way", begin + kCall + kFence + wider + kCommit + kWait);
    plant("sums of a product of another shape without wgmma.fence", begin + kCall + kWait + wider + kCommit + kWait);
    fine("sums of a product of another shape", begin + kCall + kWait + kFence + wider + kCommit + kWait);
    plant("an end without a wait", begin + kCall);
    plant("an end with a product that was not committed", begin + kSums + kFence + kProduct + kWait);
    close_session();
}

void shared_memory() {
    open_session();
    const std::string fill = fill_shared(), barrier = "bar.sync 0;\n", proxy = "fence.proxy.async;\n";
    const std::string multiply_and_wait = kMatrices + kCall + kWait;
    const std::string own_word = "mad.lo.s32 %r40, %r1, 4, %r33;\n", write = own_word + "st.shared.u32 [%r40], %r1;\n";
    const std::string copy = own_word + "cp.async.ca.shared.global [%r40], [%d1], 4;\ncp.async.commit_group;\n";
    const std::string arrive = "cp.async.wait_group 0;\n";
    fine("fence.proxy.async of all memory", fill + proxy + barrier + multiply_and_wait);
    plant("no fence of proxies", fill + barrier + multiply_and_wait);
    plant("a fence of proxies for global memory", fill + "fence.proxy.async.global;\n" + barrier + multiply_and_wait);
    plant("a fence of memory that is none of proxies", fill + "fence.acq_rel.cta;\n" + barrier + multiply_and_wait);
    plant("a fence of proxies before the write", proxy + fill + barrier + multiply_and_wait);
    plant("a fence of proxies after the barrier", fill + barrier + proxy + multiply_and_wait);
    plant("a fence of proxies by half the threads",
          fill + "setp.lt.u32 %p3, %r1, 64;\n@%p3 fence.proxy.async;\n" + barrier + multiply_and_wait);
    plant("no barrier after the fence of proxies", fill + proxy + multiply_and_wait);
    const std::string begin = fill + proxy + barrier;
    fine("a copy that is waited for", begin + copy + arrive + proxy + barrier + multiply_and_wait);
    plant("a copy that is not waited for", begin + copy + proxy + barrier + multiply_and_wait + arrive);
    plant("a fence of proxies before a copy arrives", begin + copy + proxy + arrive + barrier + multiply_and_wait);
    const std::string call = begin + kMatrices + kCall;
    plant("a matrix written before the wait", call + write + kWait);
    plant("a matrix written by a copy before the wait", call + copy + kWait + arrive);
    plant("a matrix changed by an atomic before the wait",
          call + own_word + "atom.shared.add.u32 %r41, [%r40], 1;\n" + kWait);
    fine("a matrix written after the wait and a barrier", call + kWait + barrier + write);
    fine("what is no matrix written before the wait", call + own_word + "st.shared.u32 [%r40+8192], %r1;\n" + kWait);
    // The second group's threads write what the first one's product reads.
    const std::string first = "setp.gt.u32 %p3, %r1, 127;\n@%p3 bra OTHERS;\n" + kCall + kWait;
    plant("a matrix written by another group without a barrier",
          begin + kMatrices + first + "OTHERS:\n@%p3 st.shared.u32 [%r33], %r1;\n", 256);
    plant("a matrix written by another group after the wait, without a barrier",
          begin + kMatrices + "setp.gt.u32 %p3, %r1, 127;\n@%p3 bra OTHERS;\n" + kCall + barrier + kWait +
              "ret;\nOTHERS:\n" + barrier + R"(
        mov.u32 %r42, 0;
        LATER:
        add.u32 %r42, %r42, 1;
        setp.lt.u32 %p4, %r42, 1000;
        @%p4 bra LATER;
        st.shared.u32 [%r33], %r1;)",
          256);
    fine("a matrix written by another group after a barrier",
         begin + kMatrices + first + "OTHERS:\n" + barrier +
             "setp.eq.u32 %p4, %r1, 200;\n@%p4 st.shared.u32 [%r33], %r1;\n",
         256);
    close_session();
}

void groups() {
    open_session();
    const std::string begin = kBegin + kMatrices, finish = kCommit + std::string(kWait);
    plant("a group of three warps", begin + kCall + kWait, 96);
    plant("products of half a warp", begin + "setp.gt.u32 %p3, %r1, 111;\n@%p3 bra END;\n" + kCall + kWait + "END:\n");
    plant("a warp that does not call the product",
          begin + "setp.gt.u32 %p3, %r1, 95;\n@%p3 bra END;\n" + kCall + kWait + "END:\n");
    plant("a warp that calls no fence",
          begin + kSums + "setp.lt.u32 %p3, %r1, 96;\n@%p3 wgmma.fence.sync.aligned;\n" + kProduct + finish);
    plant("a warp that calls another product",
          begin + kSums + kFence + "setp.gt.u32 %p3, %r1, 95;\n@%p3 bra OTHER;\n" + kProduct +
              "bra.uni DONE;\nOTHER:\n" + kProduct + "DONE:\n" + finish);
    plant("a warp that waits once more",
          begin + kCall + kWait + "setp.gt.u32 %p3, %r1, 95;\n@%p3 wgmma.wait_group.sync.aligned 0;\n");
    const std::string other_start = "setp.eq.u32 %p3, %r1, 77;\n@%p3 add.s64 %d4, %d4, 1;\n";
    plant("a descriptor that differs within a warp", begin + other_start + kCall + kWait);
    plant("a descriptor that differs between warps",
          begin + "setp.gt.u32 %p3, %r1, 63;\n@%p3 add.s64 %d5, %d5, 1;\n" + kCall + kWait);
    const std::string by_predicate = kSums + kFence + product(8, "%p3, 1, 1, 0, 0") + finish;
    plant("scale-d that differs within a warp", begin + "setp.eq.u32 %p3, %r1, 5;\n" + by_predicate);
    plant("scale-d that differs between warps", begin + "setp.gt.u32 %p3, %r1, 31;\n" + by_predicate);
    close_session();
}

void descriptors() {
    open_session();
    const auto plant_matrices = [](const std::string& what, const Placement& a, const Placement& b,
                                   int code = kLaunchFailed) {
        plant(what, kBegin + describe(a, b) + kCall + kWait, 128, code);
    };
    const auto plant_bits = [](const std::string& what, uint64_t bits) {
        const std::string a = std::to_string(swizzled(0).descriptor() | bits);
        plant(what, kBegin + describe_bits(a, std::to_string(swizzled(8192).descriptor())) + kCall + kWait);
    };
    plant_matrices("a matrix past the end of shared memory", chunks(0), chunks(kSharedBytes - 128), kIllegalAddress);
    plant("a matrix before shared memory",
          kBegin + describe(chunks(0), chunks(2048)) + "mov.u64 %d4, " + std::to_string(chunks(0).descriptor()) + ";\n" +
              kCall + kWait,
          128, kIllegalAddress);
    Placement far = chunks(0);
    far.stride = 16384;
    plant_matrices("rows of a matrix past the end of shared memory", far, chunks(2048), kIllegalAddress);
    plant_bits("a descriptor with an address that is not divided by 16", uint64_t{1} << 14);
    plant_bits("a descriptor with a stride that is not divided by 16", uint64_t{1} << 46);
    plant_bits("a descriptor with the swizzle in the place of tcgen05's", uint64_t{1} << 61);
    Placement shifted = swizzled(512);
    plant_matrices("a matrix that starts inside the pattern of its swizzle", shifted, swizzled(10240));
    shifted = swizzled(0);
    shifted.base_offset = 2;
    plant_matrices("a base offset where the pattern starts at its boundary", shifted, swizzled(8192));
    shifted = swizzled(0);
    shifted.first_chunk = 7;
    plant_matrices("a matrix that runs over the end of a row", shifted, swizzled(8192));
    shifted = swizzled(0);
    shifted.stride = 512;
    plant_matrices("a stride that is no multiple of the pattern", shifted, swizzled(8192));
    shifted = chunks(0);
    shifted.base_offset = 1;
    plant_matrices("a base offset without a swizzle", shifted, chunks(2048));
    const std::string mn_major = kSums + kFence + product(8, "1, 1, 1, 1, 0") + kCommit + kWait;
    shifted = swizzled(0, 64);
    shifted.leading = 256;
    plant("a leading offset that is no multiple of the pattern",
          kBegin + describe(shifted, swizzled(8192)) + mn_major);
    close_session();
}

void texts() {
    open_session();
    const auto refused = [](const std::string& what, const std::string& body, const std::string& target = "sm_90a") {
        planted(what, run(on_target(target, kernel_text(body, kDeclarations))).code, kInvalidPtx, "limit");
    };
    const std::string half = "wgmma.mma_async.sync.aligned.m64n8k16.f32.";
    refused("wgmma for sm_90", kFence, "sm_90");
    refused("wgmma for sm_80", kFence, "sm_80");
    refused("a target of a family", kFence, "sm_90f");
    refused("a fence of proxies before sm_90", "fence.proxy.async;\n", "sm_80");
    refused("a fence of another proxy", "fence.proxy.alias;\n");
    refused("wgmma without .aligned", "wgmma.fence.sync;\n");
    refused("a wgmma that is none", "wgmma.sync.aligned;\n");
    refused("a product of f16", half + "f16.f16 {%s0, %s1, %s2, %s3}, %d4, %d5, 1, 1, 1, 0, 0;");
    refused("a product of 12 columns", "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 "
                                       "{%s0, %s1, %s2, %s3, %s4, %s5}, %d4, %d5, 1, 1, 1, 0, 0;");
    refused("a product of too few registers", half + "bf16.bf16 {%s0, %s1, %s2}, %d4, %d5, 1, 1, 1, 0, 0;");
    refused("a matrix in registers", half + "bf16.bf16 {%s0, %s1, %s2, %s3}, {%r1, %r2, %r3, %r4}, %d5, 1, 1, 1, 0;");
    refused("a scale of 2", half + "bf16.bf16 {%s0, %s1, %s2, %s3}, %d4, %d5, 1, 2, 1, 0, 0;");
    refused("sums in registers of 16 bits", half + "bf16.bf16 {%h0, %h1, %h2, %h3}, %d4, %d5, 1, 1, 1, 0, 0;");
    close_session();
}

void other_gpus() {
    open_session();
    planted("a module for sm_90a on another GPU", run(on_target("sm_90a", kernel_text(""))).code, kNoBinaryForGpu);
    close_session();
}

}  // namespace

std::vector<Group> product_fault_groups() {
    const std::pair<std::string, std::string> hopper = {"SOFTGPU_CC", "9.0"};
    std::vector<Group> all = {{"texts of wgmma", {hopper}, texts},
                              {"wgmma on 10.0", {{"SOFTGPU_CC", "10.0"}}, other_gpus},
                              {"wgmma on 8.9", {{"SOFTGPU_CC", "8.9"}}, other_gpus},
                              {"descriptors of wgmma", {hopper}, descriptors}};
    for (const char* seed : {"1", "2", "3", "4"}) {
        const std::pair<std::string, std::string> order = {"SOFTGPU_SEED", seed};
        const std::string with = std::string(" of wgmma, seed ") + seed;
        all.push_back({"sums" + with, {hopper, order}, sums});
        all.push_back({"shared memory" + with, {hopper, order}, shared_memory});
        all.push_back({"groups" + with, {hopper, order}, groups});
    }
    return all;
}

}  // namespace selftest
