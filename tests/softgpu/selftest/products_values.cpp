// Products of wgmma against a plain loop, with matrices placed as the PTX ISA and as CuTe place them.
#include <fstream>
#include <random>
#include <sstream>

#include "products.hpp"

namespace selftest {
namespace {

constexpr unsigned kM = 64, kK = 16;

// Of small quarters, whose sums are exact.
struct Matrices {
    float a[kM][kK], b[kK][256];

    explicit Matrices(unsigned seed) {
        std::mt19937 random(seed);
        const auto quarter = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8) / 4; };
        for (auto& row : a) {
            for (float& value : row) value = quarter();
        }
        for (auto& row : b) {
            for (float& value : row) value = quarter();
        }
    }

    float product(unsigned row, unsigned column) const {
        float sum = 0;
        for (unsigned k = 0; k < kK; k++) sum += a[row][k] * b[k][column];
        return sum;
    }
};

void put_bf16(std::vector<uint32_t>& words, size_t byte, float value) {
    uint32_t& word = words[byte / 4];
    const unsigned shift = byte % 4 * 8;
    word = (word & ~(0xffffu << shift)) | bits_of(value) >> 16 << shift;
}

// What lies between the elements of the matrices is a NaN.
std::vector<uint32_t> empty_shared() { return std::vector<uint32_t>(kWords, 0x7fc07fc0); }

void put(std::vector<uint32_t>& words, const Matrices& matrices, const Placement& a, const Placement& b,
         unsigned num_columns) {
    for (unsigned k = 0; k < kK; k++) {
        for (unsigned row = 0; row < kM; row++) put_bf16(words, a.byte_of(row, k), matrices.a[row][k]);
        for (unsigned column = 0; column < num_columns; column++) {
            put_bf16(words, b.byte_of(column, k), matrices.b[k][column]);
        }
    }
}

// Of sum `index` of a thread, as the ISA's figure of D has it.
unsigned row_of(unsigned thread, unsigned index) { return thread / 32 * 16 + thread % 32 / 4 + index / 2 % 2 * 8; }
unsigned column_of(unsigned thread, unsigned index) { return index / 4 * 8 + thread % 4 * 2 + index % 2; }

float initial(unsigned thread, unsigned index) { return static_cast<float>(thread + index); }

// Runs `text` for all sums of 128 threads; `expected` is given thread and index.
template <class Expected>
void check_sums(const std::string& what, const std::string& text, const std::vector<uint32_t>& shared,
                unsigned num_columns, Expected expected) {
    Run how;
    how.block = 128;
    how.input = shared;
    for (unsigned part = 0; part < (num_columns / 2 + 31) / 32; part++) {
        how.argument = part;
        const Result result = run(on_target("sm_90a", kernel_text(text, kDeclarations)), how);
        check_equal(what, result.code, 0);
        bool is_right = true;
        for (unsigned thread = 0; thread < 128; thread++) {
            for (unsigned index = 32 * part; index < std::min(32 * part + 32, num_columns / 2); index++) {
                is_right &= float_of(result.words[thread * 32 + index % 32]) == expected(thread, index);
            }
        }
        check(is_right, what + ": the sums");
    }
}

std::string one_product(const Placement& a, const Placement& b, unsigned num_columns, const std::string& flags) {
    return fill_shared() + kSeen + describe(a, b) + set_sums(num_columns) + kFence + product(num_columns, flags) +
           kCommit + kWait + store_sums(num_columns);
}

// A matrix of so many lines in one piece, from `start` on.
Placement compact(bool is_mn_major, unsigned row_bytes, unsigned start, unsigned num_lines) {
    Placement placed;
    placed.is_mn_major = is_mn_major;
    placed.row_bytes = row_bytes;
    placed.start = start;
    if (row_bytes == 16) {
        placed.stride = is_mn_major ? 128 : 256;
        placed.leading = is_mn_major ? num_lines * 16 : 128;
    } else {
        placed.stride = 8 * row_bytes;
        placed.leading = is_mn_major ? 16 * row_bytes : 16;
    }
    return placed;
}

unsigned room_of(const Placement& placed, unsigned num_lines) {
    return placed.is_mn_major ? num_lines * 32 : std::max(placed.row_bytes, 32u) * num_lines;
}

void layouts() {
    open_session();
    for (const unsigned row_bytes : {16u, 32u, 64u, 128u}) {
        for (const unsigned majors : {0u, 1u, 2u, 3u}) {
            for (const unsigned num_columns : {8u, 64u, 72u, 256u}) {
                const bool a_mn = majors % 2 != 0, b_mn = majors / 2 != 0;
                const Placement a = compact(a_mn, row_bytes, 0, kM);
                const unsigned room = room_of(a, kM);
                const Placement b = compact(b_mn, row_bytes, room, num_columns);
                // MN-major columns come in whole rows of the atom.
                const unsigned row_lines = row_bytes / 2;
                const bool is_whole = !b_mn || num_columns <= row_lines || num_columns % row_lines == 0;
                if (room + room_of(b, num_columns) > kSharedBytes || !is_whole) continue;
                const std::string what = "wgmma of " + std::to_string(num_columns) + " columns, rows of " +
                                         std::to_string(row_bytes) + " bytes, A " + (a_mn ? "MN" : "K") +
                                         "-major, B " + (b_mn ? "MN" : "K") + "-major";
                const Matrices matrices(num_columns);
                std::vector<uint32_t> shared = empty_shared();
                put(shared, matrices, a, b, num_columns);
                const std::string flags = std::string("1, 1, 1, ") + (a_mn ? "1, " : "0, ") + (b_mn ? "1" : "0");
                check_sums(what, one_product(a, b, num_columns, flags), shared, num_columns,
                           [&](unsigned thread, unsigned index) {
                               return initial(thread, index) +
                                      matrices.product(row_of(thread, index), column_of(thread, index));
                           });
            }
        }
    }
    close_session();
}

// Parts of a row, patterns that begin elsewhere, and offsets with room between.
void places() {
    open_session();
    const auto check_places = [](const std::string& what, const Placement& a, const Placement& b,
                                 const std::string& flags = "1, 1, 1, 0, 0") {
        const Matrices matrices(3);
        std::vector<uint32_t> shared = empty_shared();
        put(shared, matrices, a, b, 8);
        check_sums(what, one_product(a, b, 8, flags), shared, 8, [&](unsigned thread, unsigned index) {
            return initial(thread, index) + matrices.product(row_of(thread, index), column_of(thread, index));
        });
    };
    for (const unsigned first_chunk : {2u, 4u, 6u}) {
        Placement a = compact(false, 128, 0, kM), b = compact(false, 128, 8192, 8);
        a.first_chunk = b.first_chunk = first_chunk;
        check_places("wgmma from chunk " + std::to_string(first_chunk) + " of a row", a, b);
    }
    for (const unsigned base_offset : {1u, 5u}) {
        Placement a = compact(false, 128, 128 * base_offset, kM), b = compact(false, 64, 10240, 8);
        a.base_offset = base_offset;
        b.start += 128;
        b.base_offset = 1;
        check_places("wgmma with base offset " + std::to_string(base_offset), a, b);
    }
    Placement a = compact(false, 16, 512, kM), b = compact(true, 16, 12288, 8);
    a.leading = 16 * 73;
    a.stride = 144;
    b.leading = 2064;
    check_places("wgmma with room between chunks", a, b, "1, 1, 1, 0, 1");
    b = compact(true, 128, 12288, 8);
    b.stride = 2048;
    b.first_chunk = 0;
    check_places("wgmma with room between atoms", compact(false, 32, 0, kM), b, "1, 1, 1, 0, 1");
    close_session();
}

void flags() {
    open_session();
    const Placement a = compact(false, 128, 0, kM), b = compact(false, 128, 8192, 64);
    const Matrices matrices(5);
    std::vector<uint32_t> shared = empty_shared();
    put(shared, matrices, a, b, 64);
    const auto check_flags = [&](const std::string& flags, float add, float sign, const std::string& before = "") {
        check_sums("wgmma with " + flags, before + one_product(a, b, 64, flags), shared, 64,
                   [&](unsigned thread, unsigned index) {
                       return add * initial(thread, index) +
                              sign * matrices.product(row_of(thread, index), column_of(thread, index));
                   });
    };
    check_flags("0, 1, 1, 0, 0", 0, 1);
    check_flags("1, -1, 1, 0, 0", 1, -1);
    check_flags("1, 1, -1, 0, 0", 1, -1);
    check_flags("0, -1, -1, 0, 0", 0, 1);
    check_flags("%p7, 1, 1, 0, 0", 1, 1, "setp.eq.u32 %p7, 0, 0;\n");
    check_flags("%p7, 1, 1, 0, 0", 0, 1, "setp.ne.u32 %p7, 0, 0;\n");
    close_session();
}

// Three products of the same sums, the newest of which need not be waited for; and of two groups of warps.
void sequences() {
    open_session();
    const Placement a = compact(false, 128, 0, kM), b = compact(false, 128, 8192, 64);
    const Matrices matrices(6);
    std::vector<uint32_t> shared = empty_shared();
    put(shared, matrices, a, b, 64);
    const std::string begin = fill_shared() + kSeen + describe(a, b) + set_sums(64) + kFence, once = product(64);
    const std::string waits = "wgmma.wait_group.sync.aligned 2;\nwgmma.wait_group.sync.aligned 1;\n";
    const auto thrice = [&](unsigned thread, unsigned index) {
        return initial(thread, index) + 3 * matrices.product(row_of(thread, index), column_of(thread, index));
    };
    check_sums("three products in a group", begin + once + once + once + kCommit + kWait + store_sums(64), shared, 64,
               thrice);
    check_sums("three groups of products",
               begin + once + kCommit + once + kCommit + once + kCommit + waits + kWait + store_sums(64), shared, 64,
               thrice);
    check_sums("shared memory written after a wait and a barrier",
               begin + once + once + once + kCommit + kWait + "bar.sync 0;\n" + fill_shared("AGAIN") +
                   store_sums(64),
               shared, 64, thrice);

    // The second group of warps has the same columns and negates them.
    Run how;
    how.block = 256;
    how.input = shared;
    const std::string both = begin + R"(
        setp.gt.u32 %p3, %r1, 127;
        @%p3 bra SECOND;
        )" + once + kCommit + kWait + R"(
        bra.uni END;
        SECOND:
        )" + product(64, "1, -1, 1, 0, 0") + kCommit + kWait + "END:\n";
    const std::string store = R"(
        mul.wide.u32 %d6, %r1, 64;
        add.s64 %d6, %d0, %d6;
        st.global.v2.f32 [%d6], {%s0, %s31};)";
    const Result result = run(on_target("sm_90a", kernel_text(both + store, kDeclarations)), how);
    check_equal("two groups of warps", result.code, 0);
    for (unsigned thread = 0; thread < 256; thread++) {
        for (const unsigned index : {0u, 31u}) {
            const float got = float_of(result.words[thread * 16 + index % 2]);
            const float sum = matrices.product(row_of(thread % 128, index), column_of(thread % 128, index));
            check(got == initial(thread, index) + (thread < 128 ? sum : -sum), "a sum of two groups of warps");
        }
    }
    check(take_log().find("VIOLATION") == std::string::npos, "nothing is objected to");
    close_session();
}

// A table of the tests' golden numbers: those between the brackets that follow its name, or the one number.
std::vector<uint64_t> golden(const std::string& name) {
    const std::string here = __FILE__;
    std::ifstream in(here.substr(0, here.rfind('/')) + "/../../golden/cute.json");
    std::ostringstream all;
    all << in.rdbuf();
    const std::string text = all.str(), key = "\"" + name + "\":";
    std::vector<uint64_t> numbers;
    size_t at = text.find(key);
    if (at == std::string::npos) return numbers;
    const size_t end = std::min(text.find('"', at + key.size()), text.size());
    for (at += key.size(); at < end; at++) {
        if (!isdigit(static_cast<unsigned char>(text[at]))) continue;
        size_t num_read = 0;
        numbers.push_back(std::stoull(text.substr(at, 24), &num_read));
        at += num_read;
    }
    return numbers;
}

// CuTe's tables are of 128 lines of 64 elements: offsets of the chunks of each line, or of each depth.
void cute() {
    open_session();
    const std::vector<uint64_t> k_major = golden("k_major"), mn_major = golden("mn_major");
    const std::vector<uint64_t> sums_64 = golden("sums_64x64"), sums_128 = golden("sums_64x128");
    check(k_major.size() == 1024 && mn_major.size() == 1024, "CuTe's tables of chunks are there");
    check(sums_64.size() == 8192 && sums_128.size() == 16384, "CuTe's tables of sums are there");
    const auto byte_of = [&](bool is_mn_major, unsigned line, unsigned depth) {
        return is_mn_major ? mn_major[depth * 16 + line / 8] + line % 8 * 2
                           : k_major[line * 8 + depth / 8] + depth % 8 * 2;
    };
    const Matrices matrices(8);
    for (const bool is_mn_major : {false, true}) {
        const unsigned num_columns = is_mn_major ? 128 : 64, b_start = is_mn_major ? 2048 : 8192;
        const auto& sums = is_mn_major ? sums_128 : sums_64;
        std::vector<uint32_t> shared = empty_shared();
        for (unsigned k = 0; k < kK; k++) {
            for (unsigned row = 0; row < kM; row++) {
                put_bf16(shared, byte_of(is_mn_major, row, k), matrices.a[row][k]);
            }
            for (unsigned column = 0; column < num_columns; column++) {
                put_bf16(shared, b_start + byte_of(is_mn_major, column, k), matrices.b[k][column]);
            }
        }
        const uint64_t bits = golden(is_mn_major ? "mn_major_operand" : "k_major_operand")[0];
        const std::string text = fill_shared() + kSeen +
                                 describe_bits(std::to_string(bits), std::to_string(bits + b_start / 16)) +
                                 set_sums(num_columns) + kFence +
                                 product(num_columns, is_mn_major ? "0, 1, 1, 1, 1" : "0, 1, 1, 0, 0") + kCommit +
                                 kWait + store_sums(num_columns);
        check_sums(is_mn_major ? "CuTe's MN-major matrices" : "CuTe's K-major matrices", text, shared, num_columns,
                   [&](unsigned thread, unsigned index) {
                       const uint64_t* place = &sums[2 * (size_t{thread} * num_columns / 2 + index)];
                       return matrices.product(static_cast<unsigned>(place[0]), static_cast<unsigned>(place[1]));
                   });
    }
    close_session();
}

// As of mma: to the nearest, or cut.
void one_and_a_small_part(uint32_t expected) {
    open_session();
    const Placement a = compact(false, 16, 0, kM), b = compact(false, 16, 2048, 8);
    std::vector<uint32_t> shared(kWords);
    put_bf16(shared, a.byte_of(0, 0), 1);
    put_bf16(shared, a.byte_of(0, 1), 1);
    put_bf16(shared, b.byte_of(0, 0), 1);
    put_bf16(shared, b.byte_of(0, 1), float_of(0x33c00000));  // 1.5 * 2^-24
    Run how;
    how.block = 128;
    how.input = shared;
    const std::string text = kernel_text(one_product(a, b, 8, "0, 1, 1, 0, 0"), kDeclarations);
    check_equal("wgmma rounds", run(on_target("sm_90a", text), how).words[0], expected);
    close_session();
}

}  // namespace

std::vector<Group> product_groups() {
    const std::pair<std::string, std::string> hopper = {"SOFTGPU_CC", "9.0"}, races = {"SOFTGPU_RACES", "1"};
    std::vector<Group> groups = {
        {"layouts of wgmma", {hopper}, layouts},
        {"places of wgmma", {hopper, races}, places},
        {"flags of wgmma", {hopper}, flags},
        {"wgmma as CuTe has it", {hopper}, cute},
        {"rounding of wgmma", {hopper}, [] { one_and_a_small_part(0x3f800001); }},
        {"truncation of wgmma", {hopper, {"SOFTGPU_MMA", "truncate"}}, [] { one_and_a_small_part(0x3f800000); }},
    };
    for (const char* seed : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
        groups.push_back({std::string("sequences of wgmma, seed ") + seed,
                          {hopper, races, {"SOFTGPU_SEED", seed}},
                          sequences});
    }
    return groups;
}

}  // namespace selftest
