#include "matrix_descriptor.hpp"

#include <algorithm>
#include <utility>

#include "log.hpp"

namespace softgpu {
namespace {

constexpr unsigned kAtomRows = 8;

// Bits 14 and 15, 30 and 31, 46 to 48, 52 to 61.
constexpr uint64_t kReservedBits = 0x3ff1'c000'c000'c000;

uint32_t decoded(uint64_t bits) { return static_cast<uint32_t>(bits & 0x3fff) << 4; }

unsigned row_bytes(uint64_t swizzle_mode) { return swizzle_mode == 0 ? 16 : 256u >> swizzle_mode; }

}  // namespace

MatrixDescriptor::MatrixDescriptor(uint64_t bits, bool is_mn_major, unsigned num_lines)
    : bits_(bits),
      is_mn_major_(is_mn_major),
      num_lines_(num_lines),
      start_(decoded(bits)),
      leading_bytes_(decoded(bits >> 16)),
      stride_bytes_(decoded(bits >> 32)),
      base_offset_(bits >> 49 & 7),
      row_bytes_(row_bytes(bits >> 62)) {}

std::string MatrixDescriptor::problem() const {
    if ((bits_ & kReservedBits) != 0) return concat("sets reserved bits ", hex(bits_ & kReservedBits));
    if (row_bytes_ == kChunkBytes) return base_offset_ == 0 ? "" : "has a base offset without a swizzle";

    // Row and place within it are counted from where the pattern repeats.
    const unsigned pattern_bytes = kAtomRows * row_bytes_;
    const unsigned in_pattern = (start_ - 128 * base_offset_) % pattern_bytes;
    if (in_pattern >= row_bytes_) {
        return concat("starts in row ", in_pattern / row_bytes_, " of the pattern of its ", row_bytes_,
                      "-byte swizzle, by its start ", hex(start_), " and base offset ", base_offset_);
    }
    const unsigned along_bytes = 2 * (is_mn_major_ ? num_lines_ : kDepth);
    if (in_pattern + std::min(along_bytes, row_bytes_) > row_bytes_) {
        return concat("starts at byte ", in_pattern, " of a row of ", row_bytes_, " bytes and needs ",
                      std::min(along_bytes, row_bytes_), " from there");
    }
    const bool has_strides = is_mn_major_ || num_lines_ > kAtomRows;
    const bool has_leading = is_mn_major_ && along_bytes > row_bytes_;
    if (has_strides && stride_bytes_ % pattern_bytes != 0) {
        return concat("has a stride of ", stride_bytes_, " bytes, no multiple of the ", pattern_bytes,
                      " after which its swizzle repeats");
    }
    if (has_leading && leading_bytes_ % pattern_bytes != 0) {
        return concat("has a leading offset of ", leading_bytes_, " bytes, no multiple of the ", pattern_bytes,
                      " after which its swizzle repeats");
    }
    return "";
}

// Chunks in the order of lines, or of depths.
uint32_t MatrixDescriptor::address(unsigned chunk) const {
    const bool is_swizzled = row_bytes_ != kChunkBytes;
    const unsigned chunks_along = (is_mn_major_ ? num_lines_ : kDepth) / kChunkElems;
    const unsigned row = chunk / chunks_along, along = chunk % chunks_along;
    const uint32_t in_atom = row % kAtomRows * row_bytes_;
    if (!is_swizzled) {
        // The two offsets change places.
        const auto [along_bytes, row_group_bytes] = is_mn_major_ ? std::pair(stride_bytes_, leading_bytes_)
                                                                 : std::pair(leading_bytes_, stride_bytes_);
        return start_ + in_atom + row / kAtomRows * row_group_bytes + along * along_bytes;
    }
    const unsigned chunks_in_row = row_bytes_ / kChunkBytes;
    const uint32_t atom = along / chunks_in_row * leading_bytes_ + row / kAtomRows * stride_bytes_;
    return swizzled(start_ + atom + in_atom + along % chunks_in_row * kChunkBytes);
}

// Exchanges the chunks within a row by the row's number in the pattern.
uint32_t MatrixDescriptor::swizzled(uint32_t address) const {
    const uint32_t row = (address >> 7) - base_offset_;
    return address ^ (row & (row_bytes_ / kChunkBytes - 1)) * kChunkBytes;
}

MatrixDescriptor::Place MatrixDescriptor::place(unsigned chunk, unsigned elem) const {
    const unsigned chunks_along = (is_mn_major_ ? num_lines_ : kDepth) / kChunkElems;
    const unsigned row = chunk / chunks_along, along = chunk % chunks_along * kChunkElems + elem;
    return is_mn_major_ ? Place{along, row} : Place{row, along};
}

}  // namespace softgpu
