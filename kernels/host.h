// CUDA's words on the host, for the emulator in src/device/simt. A CUDA thread is a coroutine there: what needs other
// threads (barriers, shuffles, votes, tensor cores) calls into the emulator, which resumes the thread when its turn
// comes. `__shared__` is thread-local, because an OS thread runs one block at a time.
//
// Each kernel file is compiled twice through host_unit.cpp: plain, and with RESIDUUM_SIMT_CHECKED and the compiler's
// -fsanitize (build/host.rs says of what). The compiler then announces every memory access to the emulator, which judges it
// before it happens, and arithmetic that C++ leaves undefined; no kernel says anything about checking. The sanitizers' own
// run-time libraries are not linked: kernels/host_runtime.cpp answers their calls.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// A word of CUDA that runs unobserved: the access is judged by the emulator function it calls.
#ifdef RESIDUUM_SIMT_CHECKED
#define SIMT_HOOK __attribute__((no_sanitize("thread", "bounds", "alignment"), noinline, unused)) static
#else
#define SIMT_HOOK static inline
#endif

#define __device__
#define __host__
#define __constant__ const
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(8) int2 { int32_t x, y; };
struct alignas(8) float2 { float x, y; };
struct uint3 { uint32_t x, y, z; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) int4 { int32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };

// A copy of a struct the host's compiler may make member by member, which the emulator would take for as many accesses.
__extension__ using Word16 = unsigned __int128;

static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// What the emulator offers; the Rust side is src/device/simt/hooks.rs.
namespace simt {

struct ThreadState {
    uint3 thread_idx, block_idx, block_dim, grid_dim;
    unsigned char* dynamic_shared;
};

enum WarpCallKind : uint32_t {
    kSyncwarp,
    kShuffle,
    kShuffleUp,
    kShuffleDown,
    kShuffleXor,
    kBallot,
    kMmaM16N8K16Bf16,
    kMmaM16N8K8Tf32,
    kLdmatrix,
    kLdmatrixTrans,
    // From here on of four warps together.
    kWgmmaFence,
    kWgmma,
    kWgmmaCommit,
    kWgmmaWait,
};

// What one thread brings to a meeting of its warp. `value` comes back as the result.
struct WarpCall {
    uint32_t kind;
    uint32_t mask;
    const char* file;
    uint32_t line;
    int32_t operand = 0;
    int32_t width = 32;
    uint64_t value = 0;
    const void* pointers[4] = {};
};

}  // namespace simt

extern "C" {
extern __thread simt::ThreadState simt_thread_state;
void simt_barrier(const char* file, uint32_t line);
void simt_warp_call(simt::WarpCall* call);
void simt_copy_async(void* to, const void* from, uint32_t num_bytes, bool is_cached, const char* file, uint32_t line);
void simt_copy_async_commit();
void simt_copy_async_wait(uint32_t num_pending);
void simt_fence_proxy_async();
void simt_atomic(const void* address, uint32_t num_bytes, const void* code);
}

SIMT_HOOK uint3 simt_thread_idx() { return simt_thread_state.thread_idx; }
SIMT_HOOK uint3 simt_block_idx() { return simt_thread_state.block_idx; }
SIMT_HOOK uint3 simt_block_dim() { return simt_thread_state.block_dim; }
SIMT_HOOK uint3 simt_grid_dim() { return simt_thread_state.grid_dim; }
#define threadIdx (simt_thread_idx())
#define blockIdx (simt_block_idx())
#define blockDim (simt_block_dim())
#define gridDim (simt_grid_dim())

template <class T>
SIMT_HOOK T* dynamic_shared() {
    return reinterpret_cast<T*>(simt_thread_state.dynamic_shared);
}

// Bits.
template <class To, class From>
static inline To simt_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline uint32_t __float_as_uint(float value) { return simt_bits<uint32_t>(value); }
static inline int32_t __float_as_int(float value) { return simt_bits<int32_t>(value); }
static inline float __uint_as_float(uint32_t bits) { return simt_bits<float>(bits); }
static inline float __int_as_float(int32_t bits) { return simt_bits<float>(bits); }
static inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
static inline int __ffs(int32_t bits) { return __builtin_ffs(bits); }
static inline int __clz(int32_t bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<uint32_t>(bits)); }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

// Arithmetic.
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

template <class T>
static inline T __ldg(const T* from) {
    return *from;
}

// Barriers, shuffles, votes. The source line is how a finding names the place.
#define SIMT_SITE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()

SIMT_HOOK void __syncthreads(SIMT_SITE) { simt_barrier(file, line); }

SIMT_HOOK void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_SITE) {
    simt::WarpCall call = {simt::kSyncwarp, mask, file, line};
    simt_warp_call(&call);
}

template <class T>
SIMT_HOOK T simt_shuffle(uint32_t kind, uint32_t mask, T value, int operand, int width, SIMT_SITE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
    simt::WarpCall call = {kind, mask, file, line, operand, width};
    memcpy(&call.value, &value, sizeof value);
    simt_warp_call(&call);
    memcpy(&value, &call.value, sizeof value);
    return value;
}

template <class T>
SIMT_HOOK T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, SIMT_SITE) {
    return simt_shuffle(simt::kShuffle, mask, value, lane, width, file, line);
}

template <class T>
SIMT_HOOK T __shfl_up_sync(uint32_t mask, T value, uint32_t distance, int width = 32, SIMT_SITE) {
    return simt_shuffle(simt::kShuffleUp, mask, value, static_cast<int>(distance), width, file, line);
}

template <class T>
SIMT_HOOK T __shfl_down_sync(uint32_t mask, T value, uint32_t distance, int width = 32, SIMT_SITE) {
    return simt_shuffle(simt::kShuffleDown, mask, value, static_cast<int>(distance), width, file, line);
}

template <class T>
SIMT_HOOK T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, SIMT_SITE) {
    return simt_shuffle(simt::kShuffleXor, mask, value, lane_mask, width, file, line);
}

SIMT_HOOK uint32_t __ballot_sync(uint32_t mask, int predicate, SIMT_SITE) {
    simt::WarpCall call = {simt::kBallot, mask, file, line};
    call.value = predicate != 0;
    simt_warp_call(&call);
    return static_cast<uint32_t>(call.value);
}

SIMT_HOOK int __any_sync(uint32_t mask, int predicate, SIMT_SITE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}

SIMT_HOOK int __all_sync(uint32_t mask, int predicate, SIMT_SITE) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

// Atomics, on integers only: sums of floats would depend on the order of threads.
SIMT_HOOK void simt_announce_atomic(const void* address, uint32_t num_bytes) {
#ifdef RESIDUUM_SIMT_CHECKED
    simt_atomic(address, num_bytes, __builtin_return_address(0));
#else
    static_cast<void>(address), static_cast<void>(num_bytes);
#endif
}

template <class T>
SIMT_HOOK T atomicAdd(T* address, T value) {
    static_assert(T(0.5) == T(0), "atomics are for integers: a sum of floats would depend on the order of threads");
    simt_announce_atomic(address, sizeof(T));
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <class T>
SIMT_HOOK T atomicOr(T* address, T value) {
    simt_announce_atomic(address, sizeof(T));
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

template <class T>
SIMT_HOOK T atomicAnd(T* address, T value) {
    simt_announce_atomic(address, sizeof(T));
    return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}

template <class T>
SIMT_HOOK T atomicExch(T* address, T value) {
    simt_announce_atomic(address, sizeof(T));
    return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

template <class T>
SIMT_HOOK T atomicCAS(T* address, T expected, T value) {
    simt_announce_atomic(address, sizeof(T));
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <class T>
SIMT_HOOK T atomicMax(T* address, T value) {
    simt_announce_atomic(address, sizeof(T));
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(address, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

template <class T>
SIMT_HOOK T atomicMin(T* address, T value) {
    simt_announce_atomic(address, sizeof(T));
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (value < seen &&
           !__atomic_compare_exchange_n(address, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

// Marks what build.rs writes for Rust; see common.cuh.
#define FOR_RUST

// The plain compilation defines `symbol`, the checked one `symbol_checked`.
#ifdef RESIDUUM_SIMT_CHECKED
#define SIMT_ENTRY(symbol) symbol##_checked
#else
#define SIMT_ENTRY(symbol) symbol
#endif

// Launches follow one another here.
static inline void let_next_launch_begin() {}

// Each thread has its own copy of the arguments, as on the GPU.
#define KERNEL(symbol, Args, ...)                                                            \
    static void symbol##_body(const Args& args);                                             \
    extern "C" __attribute__((no_sanitize("thread"))) void SIMT_ENTRY(symbol)(const void* arguments) { \
        const Args args = *static_cast<const Args*>(arguments);                              \
        symbol##_body(args);                                                                 \
    }                                                                                        \
    static void symbol##_body([[maybe_unused]] const Args& args)
