// A kernel while its text is read: what names mean, and the registers that constants get.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "program.hpp"

namespace softgpu {

struct SharedVariable {
    unsigned num_bytes, align, offset;
};

// What is declared outside kernels.
struct ModuleSymbols {
    std::map<std::string, SharedVariable> shared;
    std::map<std::string, unsigned> dynamic_shared;  // and its alignment
};

class KernelBuilder {
 public:
    KernelBuilder(std::string name, const ModuleSymbols& module);

    // A register lives to the end of the braces it is declared in, and hides its namesakes until then.
    void open_scope() { hidden_.emplace_back(); }
    void close_scope();
    void declare_register(const std::string& name, Type type);
    void declare_parameter(const std::string& name, unsigned num_bytes, unsigned align);
    void declare_shared(const std::string& name, SharedVariable variable);
    void declare_label(const std::string& name);

    std::optional<Operand> find_register(const std::string& name) const;
    std::optional<Operand> special_register(const std::string& name);
    // The address of a parameter or of shared memory, of 4 or 8 bytes.
    std::optional<Operand> address_of(const std::string& name, unsigned num_bytes);
    Operand constant(uint64_t value, unsigned num_bytes);

    void branch_to(const std::string& label);  // by the instruction that `append` is given next
    void append(const Instruction& instruction) { function_->code.push_back(instruction); }

    Function& function() { return *function_; }
    // Throws PtxError if a branch leads nowhere.
    std::shared_ptr<Function> finish();

 private:
    void mark_users_of_sums();
    Operand new_register(RegisterFile file, unsigned num_bytes);
    std::optional<unsigned> shared_offset(const std::string& name);
    Operand dynamic_shared_address(unsigned align, unsigned num_bytes);

    std::shared_ptr<Function> function_ = std::make_shared<Function>();
    const ModuleSymbols& module_;
    std::map<std::string, Operand> registers_;
    std::vector<std::map<std::string, std::optional<Operand>>> hidden_;  // by the declarations of each scope
    std::map<std::string, SharedVariable> shared_;
    std::map<std::string, int> labels_;
    std::vector<std::pair<size_t, std::string>> branches_;
    std::map<uint32_t, int> word_constants_;
    std::map<uint64_t, int> long_constants_;
    std::map<std::string, int> specials_;
};

}  // namespace softgpu
