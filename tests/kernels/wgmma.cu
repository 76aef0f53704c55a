// Products of a warp group for the tests of the emulator: right ones, and one for each way in which they are wrong. Never compiled
// for the GPU.
#include "mma_groups.cuh"

// c = a b, c 64x64 row-major in f32, gemm_k a multiple of 64. K-major, a is 64 x gemm_k and b 64 x gemm_k, both row-major; MN-major,
// gemm_k x 64.
struct GroupArgs { const void* a; const void* b; void* c; uint32_t gemm_k; uint32_t unused; };

enum class Fault {
    kNone,
    kNoProxyFence,
    kProxyFenceBehindBarrier,
    kRefilledBeforeWait,
    kReadBeforeWait,
    kChangedBeforeWait,
    kNoWait,
    kNoFence,
    kNoBarrier,
    kStart,
    kSwizzle,
    kStride,
    kUnlikeOperands,
    kThreeWarps,
};

namespace {

using mma_tile::KLines;
using mma_tile::MnPanels;

constexpr int kDepth = 64, kThreads = 128, kStages = 2;

// Starts this thread's copies of k-tile `k_tile`.
template <class Lines>
__device__ void gather(char* stage, const void* from, uint32_t gemm_k, uint32_t k_tile) {
    const bf16* operand = static_cast<const bf16*>(from);
    for (uint32_t i = threadIdx.x; i < 64 * kDepth / 8; i += kThreads) {
        const uint32_t line = i / 8, chunk = i % 8;
        const uint32_t at = Lines::kIsTrans ? (k_tile * kDepth + line) * 64 + chunk * 8 : line * gemm_k + k_tile * kDepth + chunk * 8;
        cp_async_16(stage + Lines::offset(static_cast<int>(line), static_cast<int>(chunk)), operand + at);
    }
}

template <Fault kFault, class A, class B>
__device__ void product(const GroupArgs& args) {
    constexpr int kStageBytes = A::kBytes + B::kBytes;
    char* stages = dynamic_shared<char>();
    const uint32_t num_k_tiles = args.gemm_k / kDepth;
    const auto start = [&](uint32_t k_tile) {
        if (k_tile < num_k_tiles) {
            char* stage = stages + k_tile % kStages * kStageBytes;
            gather<A>(stage, args.a, args.gemm_k, k_tile);
            gather<B>(stage + A::kBytes, args.b, args.gemm_k, k_tile);
        }
        cp_async_commit();
    };
    uint64_t a = A::operand(wgmma_address(stages), 0), b = B::operand(wgmma_address(stages + A::kBytes), 0);
    if (kFault == Fault::kStart) a += 1;
    if (kFault == Fault::kSwizzle) a = (a & ~(uint64_t{3} << 62)) | uint64_t{2} << 62;
    if (kFault == Fault::kStride) b = (b & ~(uint64_t{0x3fff} << 32)) | uint64_t{32} << 32;
    if (kFault == Fault::kUnlikeOperands && threadIdx.x == 70) b += 2;
    float acc[32] = {};
    start(0);
    for (uint32_t k_tile = 0; k_tile < num_k_tiles; k_tile++) {
        cp_async_wait<0>();
        if (kFault != Fault::kNoProxyFence && kFault != Fault::kProxyFenceBehindBarrier) fence_proxy_async();
        if (kFault != Fault::kRefilledBeforeWait) wgmma_wait<0>();
        if (kFault != Fault::kNoBarrier) __syncthreads();
        if (kFault == Fault::kProxyFenceBehindBarrier) fence_proxy_async();
        if (kFault != Fault::kNoFence) wgmma_fence();
        const uint64_t stage = k_tile % kStages * kStageBytes / 16;
        for (int step = 0; step < kDepth / 16; step++) {
            if (kFault == Fault::kThreeWarps && threadIdx.x >= 96) continue;
            wgmma_k16_bf16<A::kIsTrans, B::kIsTrans>(acc, a + stage + step * A::kStepBytes / 16, b + stage + step * B::kStepBytes / 16);
        }
        wgmma_commit();
        if (kFault == Fault::kChangedBeforeWait) acc[0] = 1.0f;
        start(k_tile + 1);
    }
    if (kFault == Fault::kNoWait) return;
    if (kFault != Fault::kReadBeforeWait) wgmma_wait<0>();
    wgmma_arrived(acc);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* c = static_cast<float*>(args.c);
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t row = 16 * warp + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        c[row * 64 + column] = acc[i];
    }
}

// Where mma_groups.cuh has the 16 bytes of operands of 128 rows or columns, line by line.
template <class Lines>
__device__ float* write_offsets(float* to) {
    for (int line = 0; line < Lines::kLines; line++) {
        for (int chunk = 0; chunk < Lines::kChunks; chunk++) *to++ = static_cast<float>(Lines::offset(line, chunk));
    }
    return to;
}

__device__ float* write_operand(float* to, uint64_t operand) {
    for (int word = 0; word < 4; word++) *to++ = static_cast<float>(operand >> 16 * word & 0xffff);
    return to;
}

// Row and column of each register of each thread of a warp group.
template <int kCols>
__device__ void write_places(float* to) {
    using Tile = mma_tile::GroupTile<64, kCols, 1, 1>;
    constexpr int kRegisters = kCols / 2;
    typename Tile::Acc acc;
    for (int i = 0; i < kRegisters; i++) acc.at[0][i] = static_cast<float>(i);
    float* of_thread = to + threadIdx.x * kRegisters * 2;
    mma_tile::for_each_pair_of_groups<Tile>(acc, [&](int row, int col, float first, float second) {
        for (int i = 0; i < 2; i++) {
            float* of_register = of_thread + static_cast<int>(i ? second : first) * 2;
            of_register[0] = static_cast<float>(row);
            of_register[1] = static_cast<float>(col + i);
        }
    });
}

}  // namespace

// c is what tests/golden/cute.json has, one after another, operands in words of 16 bits.
KERNEL(group_layouts, GroupArgs, 128) {
    float* c = static_cast<float*>(args.c);
    constexpr int kPlaces = 128 * 64 * 2;
    float* places = c + 2 * 128 * kDepth / 8 + 2 * 4;
    if (threadIdx.x == 0) {
        float* to = write_offsets<MnPanels<128>>(write_offsets<KLines<128>>(c));
        write_operand(write_operand(to, KLines<128>::operand(0, 0)), MnPanels<128>::operand(0, 0));
    }
    write_places<64>(places);
    write_places<128>(places + kPlaces / 2);
}

KERNEL(correct_wgmma_k_k, GroupArgs, 128) { product<Fault::kNone, KLines<64>, KLines<64>>(args); }
KERNEL(correct_wgmma_k_mn, GroupArgs, 128) { product<Fault::kNone, KLines<64>, MnPanels<64>>(args); }
KERNEL(correct_wgmma_mn_mn, GroupArgs, 128) { product<Fault::kNone, MnPanels<64>, MnPanels<64>>(args); }
KERNEL(planted_wgmma_no_proxy_fence, GroupArgs, 128) { product<Fault::kNoProxyFence, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_proxy_fence_behind_barrier, GroupArgs, 128) {
    product<Fault::kProxyFenceBehindBarrier, KLines<64>, KLines<64>>(args);
}
KERNEL(planted_wgmma_refilled_before_wait, GroupArgs, 128) {
    product<Fault::kRefilledBeforeWait, KLines<64>, KLines<64>>(args);
}
KERNEL(planted_wgmma_read_before_wait, GroupArgs, 128) { product<Fault::kReadBeforeWait, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_changed_before_wait, GroupArgs, 128) { product<Fault::kChangedBeforeWait, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_no_wait, GroupArgs, 128) { product<Fault::kNoWait, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_no_fence, GroupArgs, 128) { product<Fault::kNoFence, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_no_barrier, GroupArgs, 128) { product<Fault::kNoBarrier, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_start, GroupArgs, 128) { product<Fault::kStart, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_swizzle, GroupArgs, 128) { product<Fault::kSwizzle, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_stride, GroupArgs, 128) { product<Fault::kStride, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_unlike_operands, GroupArgs, 128) { product<Fault::kUnlikeOperands, KLines<64>, KLines<64>>(args); }
KERNEL(planted_wgmma_three_warps, GroupArgs, 128) { product<Fault::kThreeWarps, KLines<64>, KLines<64>>(args); }
