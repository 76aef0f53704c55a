// A matrix of wgmma in shared memory, as 64 bits describe it ("Matrix Descriptor Format" of the PTX ISA).
#pragma once

#include <cstdint>
#include <string>

namespace softgpu {

constexpr unsigned kChunkBytes = 16, kChunkElems = 8;  // what lies together whatever the layout: 8 of bf16
constexpr unsigned kDepth = 16;                        // products that wgmma adds for a sum of bf16

// Lines are the rows of A or the columns of B; each has `kDepth` elements. K-major is a matrix whose lines lie
// along memory, MN-major one of which elements of the same depth do.
class MatrixDescriptor {
 public:
    MatrixDescriptor(uint64_t bits, bool is_mn_major, unsigned num_lines);

    // What the ISA does not allow, in words, or nothing.
    std::string problem() const;

    // The matrix is made of chunks of 8 elements: of a line, where it is K-major, or of a depth.
    unsigned num_chunks() const { return num_lines_ * kDepth / kChunkElems; }
    uint32_t address(unsigned chunk) const;

    struct Place {
        unsigned line, depth;
    };
    Place place(unsigned chunk, unsigned elem) const;

 private:
    uint32_t swizzled(uint32_t address) const;

    uint64_t bits_;
    bool is_mn_major_;
    unsigned num_lines_;
    uint32_t start_, leading_bytes_, stride_bytes_;
    unsigned base_offset_;
    // The bytes that lie together in an atom of the layout: 128, 64 or 32, and 16 where nothing is swizzled.
    unsigned row_bytes_;
};

}  // namespace softgpu
