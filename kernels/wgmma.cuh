// The tensor cores of Hopper as named functions: products of four warps, a warp group, whose operands lie in shared memory and
// which run while the threads go on ("Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" in the PTX manual).
// PTX for sm_90a under nvcc, a meeting of the group's threads in the emulator; compiled for another GPU they do nothing, and
// nothing launches them there.
//
// The order in which a group must call:
//   fence_proxy_async   by each thread that wrote an operand, before the barrier that shows it: these products read past what
//                       other instructions see (the async proxy)
//   wgmma_fence         before the first product, and after registers of d were changed
//   wgmma_k16_bf16      d += A B, 64 rows by 64 or 128 columns by 16 positions of k. Until a wait, d holds nothing, and neither
//                       it nor the operands may be touched
//   wgmma_commit        closes the group of products since the last
//   wgmma_wait<N>       until all groups but the newest N are done
//
// With warp = thread / 32 % 4, group = lane / 4 and pair = lane % 4, a thread holds of D
//   d[4 j], d[4 j + 1]      row 16 warp + group,      columns 8 j + 2 pair and the next
//   d[4 j + 2], d[4 j + 3]  row 16 warp + group + 8,  the same columns
#pragma once

#include "mma.cuh"

// Where an operand lies: lines of 128 bytes, chunks of 16 bytes at chunk ^ (line % 8), eight lines in 1024 bytes from a multiple
// of 1024 on. Along the lines run positions of k (K-major: a line is a row or column) or rows or columns (MN-major: a line is a
// position of k).
//   bits 0-13   start, 16-29 leading offset, 32-45 stride offset, all in 16 bytes; bits 62-63 the swizzle, 1 for 128 bytes
// The stride lies between eight lines and the next. The leading offset, of MN-major operands alone, lies between 64 rows or
// columns and the next.
static __device__ __forceinline__ uint64_t wgmma_operand(uint32_t start_bytes, uint32_t leading_bytes) {
    constexpr uint64_t kStrideBytes = 1024, kSwizzle128 = uint64_t{1} << 62;
    return kSwizzle128 | (kStrideBytes >> 4) << 32 | uint64_t{leading_bytes >> 4} << 16 | (start_bytes & 0x3ffff) >> 4;
}

#ifdef __CUDACC__

// Makes what this thread wrote to shared memory visible to products, and to copies of whole boxes.
static __device__ __forceinline__ void fence_proxy_async() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

static __device__ __forceinline__ void wgmma_fence() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void wgmma_commit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int kPending>
static __device__ __forceinline__ void wgmma_wait() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Where in shared memory, as operands are told.
static __device__ __forceinline__ uint32_t wgmma_address(const void* pointer) { return shared_address(pointer); }

template <bool kIsTransA, bool kIsTransB>
static __device__ __forceinline__ void wgmma_k16_bf16(float (&d)[32], uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, 1, 1, 1, %34, %35;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "n"(int{kIsTransA}), "n"(int{kIsTransB}));
#endif
}

template <bool kIsTransA, bool kIsTransB>
static __device__ __forceinline__ void wgmma_k16_bf16(float (&d)[64], uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, 1, 1, 1, %66, %67;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "n"(int{kIsTransA}), "n"(int{kIsTransB}));
#endif
}

// What the compiler knows of d is out of date until here.
template <int N>
static __device__ __forceinline__ void wgmma_arrived(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#else

SIMT_HOOK void fence_proxy_async() { simt_fence_proxy_async(); }

SIMT_HOOK uint32_t wgmma_address(const void* pointer) {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - dynamic_shared<unsigned char>());
}

SIMT_HOOK void simt_group(uint32_t kind, int32_t operand, const char* file, uint32_t line) {
    simt::WarpCall call = {kind, 0xffffffffu, file, line, operand};
    simt_warp_call(&call);
}

SIMT_HOOK void wgmma_fence(SIMT_SITE) { simt_group(simt::kWgmmaFence, 0, file, line); }

SIMT_HOOK void wgmma_commit(SIMT_SITE) { simt_group(simt::kWgmmaCommit, 0, file, line); }

template <int kPending>
SIMT_HOOK void wgmma_wait(SIMT_SITE) {
    simt_group(simt::kWgmmaWait, kPending, file, line);
}

template <bool kIsTransA, bool kIsTransB, int N>
SIMT_HOOK void wgmma_k16_bf16(float (&d)[N], uint64_t a, uint64_t b, SIMT_SITE) {
    static_assert(N == 32 || N == 64, "64 or 128 columns");
    simt::WarpCall call = {simt::kWgmma, 0xffffffffu, file, line, 2 * N, kIsTransA + 2 * kIsTransB, a};
    call.pointers[0] = d;
    call.pointers[1] = &b;
    simt_warp_call(&call);
}

template <int N>
SIMT_HOOK void wgmma_arrived(float (&)[N]) {}

#endif
