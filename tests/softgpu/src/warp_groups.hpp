// The products of groups of four warps: wgmma. Each warp calls a product and goes on; when all four have, it reads its
// matrices and adds to its sums at a time of its own, at the latest when a warp waits for it.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "async_proxy.hpp"
#include "matrix_descriptor.hpp"
#include "warp.hpp"

namespace softgpu {

constexpr unsigned kGroupWarps = 4;

// A product that has been called and has not written its sums.
struct PendingProduct {
    enum class When { AtOnce, AtAnyTime, AtLast };

    const GroupProduct* text;
    MatrixDescriptor a, b;
    bool adds;  // to what the sums are
    When reads, writes;
    unsigned num_callers = 0;
    std::vector<double> a_values = {}, b_values = {};  // [line][depth] and [depth][line], when they have been read

    bool has_read() const { return !a_values.empty(); }
    void read(const uint8_t* shared);
    void write(Warp* warps);  // of the group
};

class WarpGroups {
 public:
    // `shared` is the block's shared memory.
    WarpGroups(Block& block, const Function& function, std::vector<Warp>& warps, std::vector<uint8_t>& shared);

    void start();  // of a block
    void end(const Warp& warp);
    void barrier();

    // What threads do beside products.
    void touch_sums(Warp& warp, const Instruction& in);
    void write(size_t offset, size_t num_bytes, unsigned warp, int lane);
    void start_copy(size_t offset, size_t num_bytes, unsigned warp, int lane);
    void fence_proxy(const Warp& warp, uint32_t lane_mask);
    void check_waited_at_end(const Warp& warp) const;

    void fence(Warp& warp, const Instruction& in);
    void multiply(Warp& warp, const Instruction& in);
    void commit(Warp& warp, const Instruction& in);
    bool can_wait(const Warp& warp, const Instruction& in) const;  // all warps have called what is waited for
    void wait(Warp& warp, const Instruction& in);

    bool has_pending() const;
    void let_products_run();  // some of them, somewhat

 private:
    // A wgmma instruction that a warp of a group has come to, and the others have to.
    struct Call {
        const Instruction* in;
        uint64_t a, b;
        bool adds;
    };
    struct Group {
        std::deque<Call> calls;  // which not all warps have made
        uint64_t num_calls_made = 0;
        std::deque<PendingProduct> products;
        uint64_t num_products_done = 0;
        uint64_t num_known_done = 0;         // to all threads of the block, by a barrier
        std::vector<uint64_t> last_reader;   // of 16 bytes of shared memory: a product's number + 1
        std::deque<const Instruction*> texts;  // of all products
    };
    struct SumRegister {
        uint64_t accessed = 0, multiplied = 0;  // when last
        uint64_t last_product = 0;              // its number + 1
        unsigned num_columns = 0;
    };
    struct Member {
        uint64_t num_calls = 0, num_products = 0, num_waited = 0;
        uint64_t fence = 0;
        std::vector<uint64_t> products_at_commit;
        std::vector<SumRegister> registers;  // by `slots_`
    };

    Group& group_of(const Warp& warp);
    Member& member_of(const Warp& warp) { return members_[warp.index]; }
    SumRegister& state_of(Member& member, int index) {
        return member.registers[static_cast<size_t>(slots_[static_cast<size_t>(index)])];
    }
    const std::string& name_of(int index) const { return function_.sum_names.at(index); }
    void call(Warp& warp, const Call& call);
    uint64_t num_products_awaited(const Warp& warp, const Instruction& in) const;
    void check_sums(Member& member, const GroupProduct& product);
    void check_matrix(Group& group, const MatrixDescriptor& matrix, const char* name, uint64_t number);
    void finish(size_t group, uint64_t num_products);
    void run_first(size_t group);
    bool is_due(PendingProduct::When when);
    std::string describe(const Instruction& in) const;

    Block& block_;
    const Function& function_;
    std::vector<Warp>& warps_;
    std::vector<uint8_t>& shared_;
    AsyncProxy proxy_;
    std::vector<Group> groups_;
    std::vector<Member> members_;
    std::vector<int> slots_;  // of registers: which of the accumulators' registers each is
    uint64_t now_ = 0;
};

}  // namespace softgpu
