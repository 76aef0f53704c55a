// Kernels that multiply by wgmma, for the tests of it.
#pragma once

#include <string>
#include <vector>

#include "selftest.hpp"

namespace selftest {

// A matrix in shared memory as the PTX ISA's figures draw it: atoms of 8 rows of 128, 64 or 32 bytes, or of 16 where
// nothing is swizzled, in which row r has its 16-byte chunks exchanged. Lines are rows of A and columns of B.
struct Placement {
    bool is_mn_major = false;
    unsigned row_bytes = 16;
    unsigned start = 0, leading = 0, stride = 0;  // in bytes; `start` from the kernel's shared memory
    unsigned base_offset = 0;
    unsigned first_chunk = 0;  // within a row of the atom, of K-major matrices

    size_t byte_of(unsigned line, unsigned depth) const;
    uint64_t descriptor() const;  // without the address of shared memory
};

constexpr unsigned kSharedBytes = 4 * kWords;  // of these kernels

// Pieces of a kernel, which fills its shared memory with the buffer's words. Its sums are %s0 and on, its matrices'
// descriptors %d4 and %d5.
extern const char* const kDeclarations;
std::string fill_shared(const std::string& label = "FILL");
std::string describe(const Placement& a, const Placement& b);
std::string describe_bits(const std::string& a, const std::string& b);  // of what is added to sh's descriptor
std::string set_sums(unsigned num_columns);                             // to the thread's number + their own
std::string product(unsigned num_columns, const std::string& flags = "1, 1, 1, 0, 0");
std::string store_sums(unsigned num_columns);  // 32 of a thread: those from 32 times the argument on

extern const char* const kSeen;  // what makes shared memory seen
extern const char* const kFence;
extern const char* const kCommit;
extern const char* const kWait;

}  // namespace selftest
