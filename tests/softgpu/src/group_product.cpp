// wgmma.m64nNk16 of bf16: what it reads and what it adds. Warp w of the group has rows 16 w to 16 w + 15 of the sums; in
// these and in every 8 columns, with group = lane / 4 and pair = 2 (lane % 4), a lane holds rows group, group, + 8, + 8
// and columns pair, pair + 1, pair, pair + 1.
#include "block.hpp"
#include "float_values.hpp"
#include "handlers.hpp"
#include "settings.hpp"
#include "warp_groups.hpp"

namespace softgpu {
namespace {

constexpr unsigned kWarpRows = 16, kMaxColumns = 256;

// Calls `put(line, depth, value)` for every element.
template <class Put>
void read_matrix(const MatrixDescriptor& matrix, const uint8_t* shared, Put put) {
    for (unsigned chunk = 0; chunk < matrix.num_chunks(); chunk++) {
        uint16_t elems[kChunkElems];
        memcpy(elems, shared + (matrix.address(chunk) - kSharedBase), sizeof elems);
        for (unsigned elem = 0; elem < kChunkElems; elem++) {
            const auto [line, depth] = matrix.place(chunk, elem);
            put(line, depth, double{bf16_value(elems[elem])});
        }
    }
}

void fence(Block& block, Warp& warp, const Instruction& in, uint32_t) { block.groups().fence(warp, in); }
void multiply(Block& block, Warp& warp, const Instruction& in, uint32_t) { block.groups().multiply(warp, in); }
void commit(Block& block, Warp& warp, const Instruction& in, uint32_t) { block.groups().commit(warp, in); }
void wait(Block& block, Warp& warp, const Instruction& in, uint32_t) { block.groups().wait(warp, in); }

// Where nothing is multiplied by wgmma, nothing reads through the other proxy.
void fence_proxy(Block& block, Warp& warp, const Instruction&, uint32_t lane_mask) {
    if (block.has_groups()) block.groups().fence_proxy(warp, lane_mask);
}

}  // namespace

void PendingProduct::read(const uint8_t* shared) {
    const unsigned num_columns = text->num_columns;
    a_values.resize(size_t{kGroupWarps} * kWarpRows * kDepth);
    b_values.resize(size_t{kDepth} * num_columns);
    read_matrix(a, shared, [&](unsigned row, unsigned depth, double value) {
        a_values[row * kDepth + depth] = text->is_negative[0] ? -value : value;
    });
    read_matrix(b, shared, [&](unsigned column, unsigned depth, double value) {
        b_values[depth * num_columns + column] = text->is_negative[1] ? -value : value;
    });
}

// Products are exact in f64 and their sum nearly so; it is rounded once, or cut.
void PendingProduct::write(Warp* warps) {
    const unsigned num_columns = text->num_columns;
    const auto register_of = [&](unsigned row, unsigned column) -> uint32_t& {
        const unsigned lane = row % 8 * 4 + column % 8 / 2;
        const unsigned index = column / 8 * 4 + row % kWarpRows / 8 * 2 + column % 2;
        const auto first = static_cast<size_t>(text->sums[index]) * kWarpLanes;
        return warps[row / kWarpRows].words[first + lane];
    };
    for (unsigned row = 0; row < kGroupWarps * kWarpRows; row++) {
        double sums[kMaxColumns];
        for (unsigned column = 0; column < num_columns; column++) {
            sums[column] = adds ? double{bit_cast<float>(register_of(row, column))} : 0.0;
        }
        for (unsigned depth = 0; depth < kDepth; depth++) {
            const double a_value = a_values[row * kDepth + depth];
            const double* b_row = &b_values[size_t{depth} * num_columns];
            for (unsigned column = 0; column < num_columns; column++) sums[column] += a_value * b_row[column];
        }
        for (unsigned column = 0; column < num_columns; column++) {
            register_of(row, column) = float_bits(settings().truncate_mma ? towards_zero(sums[column])
                                                                          : static_cast<float>(sums[column]));
        }
    }
}

Handler group_fence_handler() { return fence; }
Handler group_product_handler() { return multiply; }
Handler group_commit_handler() { return commit; }
Handler group_wait_handler() { return wait; }
Handler async_proxy_fence_handler() { return fence_proxy; }

}  // namespace softgpu
