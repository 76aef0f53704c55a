// One instruction: its opcode, its operands and the function that performs it.
#pragma once

#include <string>

#include "kernel_builder.hpp"
#include "opcode.hpp"
#include "program.hpp"
#include "token_stream.hpp"

namespace softgpu {

class InstructionParser {
 public:
    InstructionParser(TokenStream& tokens, KernelBuilder& kernel, Target target)
        : tokens_(tokens), kernel_(kernel), target_(target) {}

    void set_source(int file, int line) {
        source_file_ = file;
        source_line_ = line;
    }

    Instruction parse();

 private:
    using Rule = void (InstructionParser::*)();
    static Rule find_rule(const std::string& name);

    // A register may be wider than the type where the ISA says so: in loads, stores and conversions.
    enum class Width { Exact, AtLeast };
    Operand result(Type type, Width width = Width::Exact);
    Operand result_or_sink(Type type, Width width = Width::Exact);
    Operand source(Type type, Width width = Width::Exact);
    Operand literal(Type type, bool negative);
    void check_width(const Operand& operand, Type type, Width width);
    void add_result(Type type, Width width = Width::Exact) { in_.add_result(result(type, width)); }
    void add_source(Type type, Width width = Width::Exact) { in_.add_source(source(type, width)); }
    void add_next_source(Type type, Width width = Width::Exact);  // after a comma
    void add_results_in_braces(Type type, Width width = Width::Exact);
    void add_sources_in_braces(Type type, Width width = Width::Exact);
    void add_address(Space space);
    unsigned num_in_braces() const;

    void guard();
    void memory_space();
    void vector_length();
    [[noreturn]] void not_covered();

    void arithmetic();
    void multiply();
    void move();
    void convert();
    void to_global();
    void set_predicate();
    void select();
    void load();
    void store();
    void copy_async();
    void ldmatrix();
    void mma();
    void warp_group();
    void group_product();
    void shuffle();
    void vote();
    void active_mask();
    void barrier();
    void fence();
    void proxy_fence();
    void grid_dependency();
    void atomic();
    void branch();
    void exit();
    void trap();

    TokenStream& tokens_;
    KernelBuilder& kernel_;
    const Target target_;
    int source_file_ = 0, source_line_ = 0;
    Opcode opcode_;  // of the instruction that is read
    Instruction in_;
};

}  // namespace softgpu
