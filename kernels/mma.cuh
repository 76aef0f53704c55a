// Tensor cores and asynchronous copies as named functions: PTX under nvcc, a meeting of the warp's threads in the
// emulator, with the fragment layouts of the PTX manual ("Matrix fragments for mma.m16n8k16", "ldmatrix").
//
// With group = lane / 4 and pair = lane % 4, a thread holds of D = A B + C (16x8 = 16x16 16x8):
//   A  a[0] rows group,   columns 2 pair, 2 pair + 1      a[1] row group + 8, the same columns
//      a[2] rows group,   columns 2 pair + 8, + 9         a[3] row group + 8, the same columns
//   B  b[0] rows 2 pair, 2 pair + 1 of column group       b[1] rows 2 pair + 8, + 9
//   C, D  [0], [1] row group, columns 2 pair, 2 pair + 1  [2], [3] row group + 8
// The lower half of a 32-bit register holds the element of lower index.
// Of 16x8 = 16x8 8x8 in TF32, with an element a register ("Matrix fragments for mma.m16n8k8"), C and D as above:
//   A  a[0] row group, column pair    a[1] row group + 8    a[2], a[3] the same rows, column pair + 4
//   B  b[0] row pair, column group    b[1] row pair + 4
// These are the 32-bit halves of what `ldmatrix` reads of rows of 16 bytes, four elements each.
#pragma once

#include "common.cuh"

#ifdef __CUDACC__

static __device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// d = a b + c; d may be c.
static __device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                         const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d = a b + c, of numbers that `to_tf32` has rounded; d may be c.
static __device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                        const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// The nearest TF32 to an f32, which has ten bits of its mantissa; halfway away from zero. Tensor cores ignore the other bits,
// which without rounding would cut all products towards zero.
static __device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}

// Four 8x8 matrices of 16-bit elements from shared memory: lanes 8 i .. 8 i + 7 give the addresses of the rows (16
// bytes each, 16-byte aligned) of matrix i. r[i] gets row lane / 4, columns 2 (lane % 4) and the next, of matrix i.
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// As ldmatrix_x4 with every matrix transposed: r[i] gets rows 2 (lane % 4) and the next of column lane / 4.
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Two matrices; the addresses of lanes 16 to 31 are not used but must be valid.
static __device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// Starts a copy of 16 bytes from global to shared memory, both 16-byte aligned, past the L1 cache. With `valid` false
// it writes zeros and reads nothing. The bytes are there after this thread's `cp_async_wait`; for other threads, after
// a barrier after that.
static __device__ __forceinline__ void cp_async_16(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

// As cp_async_16 through the L1 cache: bytes that the block, or its neighbours on the multiprocessor, copy again soon.
static __device__ __forceinline__ void cp_async_16_cached(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

// As cp_async_16 for 4 bytes (through the L1 cache): rows whose length is not a multiple of 16 bytes.
static __device__ __forceinline__ void cp_async_4(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 4 : 0)
                 : "memory");
}

// Closes the group of the copies started since the last commit.
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending of this thread's newest groups are still under way.
template <int kPending>
static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

SIMT_HOOK void simt_mma(uint32_t kind, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                        const char* file, uint32_t line) {
    simt::WarpCall call = {kind, 0xffffffffu, file, line};
    call.pointers[0] = d;
    call.pointers[1] = a;
    call.pointers[2] = b;
    call.pointers[3] = c;
    simt_warp_call(&call);
}

SIMT_HOOK void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                                 const char* file = __builtin_FILE(), uint32_t line = __builtin_LINE()) {
    simt_mma(simt::kMmaM16N8K16Bf16, d, a, b, c, file, line);
}

SIMT_HOOK void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                                const char* file = __builtin_FILE(), uint32_t line = __builtin_LINE()) {
    simt_mma(simt::kMmaM16N8K8Tf32, d, a, b, c, file, line);
}

static __device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffffffu;
    // The sum carries into the exponent where the mantissa is full, as it should, and from the largest number to infinity.
    return magnitude > 0x7f800000u ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u;
}

template <int N>
SIMT_HOOK void simt_ldmatrix(uint32_t kind, uint32_t (&r)[N], const void* row, const char* file, uint32_t line) {
    simt::WarpCall call = {kind, 0xffffffffu, file, line};
    call.operand = N;
    call.pointers[0] = r;
    call.pointers[1] = row;
    simt_warp_call(&call);
}

SIMT_HOOK void ldmatrix_x4(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                           uint32_t line = __builtin_LINE()) {
    simt_ldmatrix(simt::kLdmatrix, r, row, file, line);
}

SIMT_HOOK void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                                 uint32_t line = __builtin_LINE()) {
    simt_ldmatrix(simt::kLdmatrixTrans, r, row, file, line);
}

SIMT_HOOK void ldmatrix_x2(uint32_t (&r)[2], const void* row, const char* file = __builtin_FILE(),
                           uint32_t line = __builtin_LINE()) {
    simt_ldmatrix(simt::kLdmatrix, r, row, file, line);
}

SIMT_HOOK void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, const char* file = __builtin_FILE(),
                                 uint32_t line = __builtin_LINE()) {
    simt_ldmatrix(simt::kLdmatrixTrans, r, row, file, line);
}

SIMT_HOOK void cp_async_16(void* to, const void* from, bool valid = true, const char* file = __builtin_FILE(),
                           uint32_t line = __builtin_LINE()) {
    simt_copy_async(to, valid ? from : nullptr, 16, false, file, line);
}

SIMT_HOOK void cp_async_16_cached(void* to, const void* from, bool valid = true, const char* file = __builtin_FILE(),
                                  uint32_t line = __builtin_LINE()) {
    simt_copy_async(to, valid ? from : nullptr, 16, true, file, line);
}

SIMT_HOOK void cp_async_4(void* to, const void* from, bool valid = true, const char* file = __builtin_FILE(),
                          uint32_t line = __builtin_LINE()) {
    simt_copy_async(to, valid ? from : nullptr, 4, true, file, line);
}

SIMT_HOOK void cp_async_commit() { simt_copy_async_commit(); }

template <int kPending>
SIMT_HOOK void cp_async_wait() {
    simt_copy_async_wait(kPending);
}

#endif
