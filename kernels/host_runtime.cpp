// The emulator's C++ side: the per-thread words of CUDA, and the functions that the compiler's sanitizers call before
// every memory access of a checked kernel. Each goes on to src/device/simt/hooks.rs with the address of the code that
// called, from which a finding gets its source line.
#include "host.h"

extern "C" {

__thread simt::ThreadState simt_thread_state;

simt::ThreadState* simt_thread_state_address() { return &simt_thread_state; }

void simt_access(const void* address, uint64_t num_bytes, uint32_t is_write, const void* code);
void simt_index_outside_array(const char* array_type, int64_t index, const void* code);
void simt_misaligned(const char* type, uint32_t alignment, const void* address, const void* code);
void simt_signed_overflow(int64_t left, uint32_t sign, int64_t right, const void* code);
void simt_division_by_zero(int64_t left, const void* code);
void simt_wrong_shift(const char* type, int64_t value, int64_t distance, const void* code);

// -fsanitize=thread
#define ACCESS(bytes)                                                                                            \
    void __tsan_read##bytes(void* address) { simt_access(address, bytes, 0, __builtin_return_address(0)); }      \
    void __tsan_write##bytes(void* address) { simt_access(address, bytes, 1, __builtin_return_address(0)); }     \
    void __tsan_unaligned_read##bytes(void* address) { simt_access(address, bytes, 0, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##bytes(void* address) { simt_access(address, bytes, 1, __builtin_return_address(0)); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* address, uint64_t bytes) { simt_access(address, bytes, 0, __builtin_return_address(0)); }
void __tsan_write_range(void* address, uint64_t bytes) { simt_access(address, bytes, 1, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// -fsanitize=bounds,alignment,signed-integer-overflow,integer-divide-by-zero,shift. The structs are the compilers' own, the
// same for GCC and Clang.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;
    char name[1];
};
struct OutOfBounds {
    SourceLocation location;
    const TypeDescriptor *array_type, *index_type;
};
struct TypeMismatch {
    SourceLocation location;
    const TypeDescriptor* type;
    uint8_t log_alignment, kind;
};
struct Overflow {
    SourceLocation location;
    const TypeDescriptor* type;
};
struct ShiftOutOfBounds {
    SourceLocation location;
    const TypeDescriptor *value_type, *distance_type;
};

// The number that the compiler passed as a word.
static int64_t number(const TypeDescriptor* type, intptr_t word) {
    // Bit 0 of `info` says signed; above it stands the logarithm of the width, which is 6 at most here.
    const uint32_t bits = 1u << (type->info >> 1);
    const bool is_narrow_signed = (type->info & 1) && bits < 64;
    return is_narrow_signed ? static_cast<int64_t>(static_cast<uint64_t>(word) << (64 - bits)) >> (64 - bits) : word;
}

void __ubsan_handle_out_of_bounds(OutOfBounds* data, intptr_t index) {
    simt_index_outside_array(data->array_type->name, number(data->index_type, index), __builtin_return_address(0));
}

#define SIGNED_OVERFLOW(name, sign)                                                                                   \
    void __ubsan_handle_##name##_overflow(Overflow* data, intptr_t left, intptr_t right) {                            \
        simt_signed_overflow(number(data->type, left), sign, number(data->type, right), __builtin_return_address(0)); \
    }
SIGNED_OVERFLOW(add, '+')
SIGNED_OVERFLOW(sub, '-')
SIGNED_OVERFLOW(mul, '*')

void __ubsan_handle_negate_overflow(Overflow* data, intptr_t value) {
    simt_signed_overflow(0, '-', number(data->type, value), __builtin_return_address(0));
}

// Also of a remainder.
void __ubsan_handle_divrem_overflow(Overflow* data, intptr_t left, intptr_t right) {
    const int64_t dividend = number(data->type, left), divisor = number(data->type, right);
    if (divisor == 0) simt_division_by_zero(dividend, __builtin_return_address(0));
    simt_signed_overflow(dividend, '/', divisor, __builtin_return_address(0));
}

void __ubsan_handle_shift_out_of_bounds(ShiftOutOfBounds* data, intptr_t value, intptr_t distance) {
    simt_wrong_shift(data->value_type->name, number(data->value_type, value), number(data->distance_type, distance),
                     __builtin_return_address(0));
}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, const void* address) {
    simt_misaligned(data->type->name, 1u << data->log_alignment, address, __builtin_return_address(0));
}
}
