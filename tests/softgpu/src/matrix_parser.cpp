// The instructions of tensor cores: of a warp, and of a group of four.
#include "handlers.hpp"
#include "instruction_parser.hpp"
#include "log.hpp"

namespace softgpu {

void InstructionParser::ldmatrix() {
    for (const char* needed : {"sync", "aligned", "m8n8", "shared"}) {
        if (!opcode_.has(needed)) not_covered();
    }
    if (!opcode_.has("x1") && !opcode_.has("x2") && !opcode_.has("x4")) not_covered();
    in_.step = Step::WholeWarp;
    in_.num_elems = opcode_.has("x4") ? 4 : opcode_.has("x2") ? 2 : 1;
    add_results_in_braces(Type::B32);
    tokens_.expect(",");
    add_address(Space::Shared);
    if (in_.num_results != in_.num_elems) tokens_.fail("matrices and registers differ in number");
    in_.handler = ldmatrix_handler(opcode_.has("trans"));
}

void InstructionParser::mma() {
    const std::string shape = "mma.sync.aligned.m16n8", types = ".row.col.f32.";
    const bool is_bf16 = opcode_.text() == shape + "k16" + types + "bf16.bf16.f32";
    const bool is_tf32 = opcode_.text() == shape + "k8" + types + "tf32.tf32.f32";
    if (!is_bf16 && !is_tf32) not_covered();
    opcode_.ignore_modifiers();
    in_.step = Step::WholeWarp;
    add_results_in_braces(Type::F32);
    for (const Type matrix : {Type::B32, Type::B32, Type::F32}) {
        tokens_.expect(",");
        add_sources_in_braces(matrix);
    }
    if (in_.num_results != 4 || in_.num_sources != 10) tokens_.fail("mma with another number of registers");
    in_.handler = mma_handler(is_bf16 ? Type::BF16 : Type::TF32);
}

// What needs sm_90a and nothing else.
void InstructionParser::warp_group() {
    if (target_.capability != 90 || !target_.is_specific) tokens_.fail("wgmma needs sm_90a");
    if (!opcode_.has("sync") || !opcode_.has("aligned")) not_covered();
    in_.step = Step::WholeWarp;
    kernel_.function().uses_warp_groups = true;
    if (opcode_.has("mma_async")) {
        group_product();
    } else if (opcode_.has("fence")) {
        in_.handler = group_fence_handler();
    } else if (opcode_.has("commit_group")) {
        in_.handler = group_commit_handler();
    } else if (opcode_.has("wait_group")) {
        in_.step = Step::GroupWait;
        in_.immediate = static_cast<uint32_t>(tokens_.number());
        in_.handler = group_wait_handler();
    } else {
        not_covered();
    }
}

// wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {sums}, A, B, scale-d, imm-scale-a, imm-scale-b,
// imm-trans-a, imm-trans-b; both matrices in shared memory, of which only 16 bits a number can be transposed.
void InstructionParser::group_product() {
    const std::vector<Type> types = {Type::F32, Type::BF16, Type::BF16};
    auto product = std::make_shared<GroupProduct>();
    product->num_columns = 0;
    for (unsigned columns = 8; columns <= 256; columns += 8) {
        if (opcode_.has(concat("m64n", columns, "k16"))) product->num_columns = columns;
    }
    if (product->num_columns == 0 || opcode_.types() != types) not_covered();

    tokens_.expect("{");
    do {
        const std::string name = tokens_.current();
        product->sums.push_back(result(Type::F32).index);
        kernel_.function().sum_names[product->sums.back()] = name;
    } while (tokens_.accept(","));
    tokens_.expect("}");
    if (product->sums.size() != product->num_columns / 2) {
        tokens_.fail(concat(product->sums.size(), " registers for ", product->num_columns, " columns of sums"));
    }
    for (int matrix = 0; matrix < 2; matrix++) {
        tokens_.expect(",");
        if (tokens_.current() == "{") tokens_.fail("a matrix in registers is not covered");
        add_source(Type::B64);
    }
    add_next_source(Type::Pred);
    const auto immediate = [&](const char* name, long first, long second) {
        tokens_.expect(",");
        const long value = tokens_.number();
        if (value != first && value != second) tokens_.fail(concat(name, " is ", first, " or ", second));
        return value == second;
    };
    for (bool& is_negative : product->is_negative) is_negative = immediate("imm-scale", 1, -1);
    for (bool& is_mn_major : product->is_mn_major) is_mn_major = immediate("imm-trans", 0, 1);
    in_.product = product;
    in_.handler = group_product_handler();
}

// Of the fences between proxies, those between the generic one and that of asynchronous operations. One for global
// memory alone orders nothing that wgmma reads.
void InstructionParser::proxy_fence() {
    if (target_.capability < 90) tokens_.fail("fence.proxy.async needs sm_90");
    if (!opcode_.has("async")) not_covered();
    in_.handler = opcode_.has("global") ? nothing_handler() : async_proxy_fence_handler();
    opcode_.has("shared");
}

}  // namespace softgpu
