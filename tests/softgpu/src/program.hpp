// PTX as the interpreter runs it: every instruction carries the function that performs it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "types.hpp"

namespace softgpu {

class Block;
struct Warp;
struct Instruction;

// Performs an instruction for the lanes in `lane_mask`, which is not empty.
using Handler = void (*)(Block&, Warp&, const Instruction&, uint32_t lane_mask);

// What the scheduler of a warp has to do with an instruction.
enum class Step : uint8_t {
    Lanes,       // each lane for itself
    MemberMask,  // once the lanes that `sources[0]` names have met
    WholeWarp,   // once all 32 lanes have met
    GroupWait,   // the same, and the warp waits for products of its group
    BlockBarrier,
    Branch,
    Exit,
};

enum class Space : uint8_t { Global, Shared, Param };
enum class Compare : uint8_t { Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan };
enum class Rounding : uint8_t { None, Rn, Rna, Rz, Rm, Rp, Rni, Rzi, Rmi, Rpi };

// Predicates are one bit a lane; all registers of at most 32 bits share a file.
enum class RegisterFile : uint8_t { None, Predicates, Words, Longs };

struct Operand {
    RegisterFile file = RegisterFile::None;
    uint8_t bytes = 0;     // as the register was declared; 0 of a predicate
    bool negated = false;  // of a predicate
    int index = -1;

    explicit operator bool() const { return file != RegisterFile::None; }
};

constexpr int kMaxResults = 4, kMaxSources = 10;

// What the text says of a wgmma.mma_async. The matrices are A and B.
struct GroupProduct {
    unsigned num_columns;   // of B and of the sums
    std::vector<int> sums;  // registers of the accumulator, in their order
    bool is_negative[2], is_mn_major[2];
};

struct Instruction {
    Handler handler = nullptr;
    Step step = Step::Lanes;
    Type type = Type::None, source_type = Type::None;
    Space space = Space::Global;
    Compare compare = Compare::Eq;
    Rounding rounding = Rounding::None;
    bool saturate = false, flush_subnormals = false, guard_negated = false;
    bool touches_sums = false;  // reads or writes a register that is some wgmma.mma_async's accumulator
    uint8_t num_results = 0, num_sources = 0;
    uint8_t num_elems = 1;  // of a vector; the matrices of ldmatrix
    int guard = -1;         // a predicate
    int target = -1;        // of a branch
    uint32_t immediate = 0;
    int64_t offsets[2] = {};  // added to the addresses in sources[0] and sources[1]
    Operand results[kMaxResults], sources[kMaxSources];
    std::shared_ptr<const GroupProduct> product;
    int line = 0, source_file = 0, source_line = 0;

    void add_result(Operand operand) { results[num_results++] = operand; }
    void add_source(Operand operand) { sources[num_sources++] = operand; }
};

enum class SpecialRegister : uint8_t { ThreadIdx, BlockDim, BlockIdx, GridDim, Lane };

struct Parameter {
    std::string name;
    unsigned offset, num_bytes;
};

// What registers hold before the first instruction.
struct InitialValues {
    struct Special {
        SpecialRegister which;
        int axis;
        int index;
    };
    std::vector<std::pair<int, uint32_t>> words;  // constants of the text
    std::vector<std::pair<int, uint64_t>> longs;
    std::vector<Special> specials;
    int dynamic_shared_word = -1, dynamic_shared_long = -1;  // the address of dynamic shared memory
};

// A kernel.
struct Function {
    std::string name;
    std::vector<Instruction> code;  // ends with an exit that is not in the text
    std::vector<Parameter> parameters;
    unsigned parameter_bytes = 0;
    unsigned max_threads = 0;  // .maxntid; 0 where the text sets no limit
    unsigned static_shared_bytes = 0, dynamic_shared_align = 16;
    bool uses_dynamic_shared = false;
    bool uses_warp_groups = false;         // multiplies by wgmma
    std::map<int, std::string> sum_names;  // of the registers of accumulators
    int num_words = 0, num_longs = 0, num_predicates = 0;
    InitialValues initial;
    std::vector<int> live_words, live_longs;  // registers that may be read before they are written
    std::shared_ptr<const std::vector<std::string>> text;          // the module's lines
    std::shared_ptr<const std::map<int, std::string>> file_names;  // of `source_file`

    // What has happened to it. Several host threads run blocks of one launch.
    std::unique_ptr<std::atomic<uint8_t>[]> covered;
    uint64_t num_launches = 0, num_warp_instructions = 0;

    std::string text_of(const Instruction& instruction) const;
    std::string source_of(const Instruction& instruction) const;  // `file.cu:12`, or nothing
};

struct Target {
    unsigned capability = 0;  // the 80 of sm_80
    bool is_specific = false;  // sm_90a: what it has is on GPUs of that capability alone

    bool runs_on(unsigned gpu) const { return is_specific ? capability == gpu : capability <= gpu; }
};

struct Program {
    std::map<std::string, std::shared_ptr<Function>> functions;
    Target target;
};

struct PtxError : std::runtime_error {
    using runtime_error::runtime_error;
};

// Throws PtxError for text that is wrong, and for what the interpreter does not cover.
Program parse_ptx(const std::string& text);

constexpr uint32_t kSharedBase = 1024;                         // address 0 is nobody's
constexpr uint64_t kParameterBase = 0x1000'0000'0000'0000ull;  // parameters, seen as addresses

}  // namespace softgpu
