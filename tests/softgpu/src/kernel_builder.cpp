#include "kernel_builder.hpp"

#include <algorithm>

#include "liveness.hpp"
#include "log.hpp"

namespace softgpu {
namespace {

unsigned round_up(unsigned value, unsigned align) { return (value + align - 1) / align * align; }

// The kind and axis of `%tid.x` and its like.
std::optional<std::pair<SpecialRegister, int>> parse_special(const std::string& name) {
    if (name == "%laneid") return {{SpecialRegister::Lane, 0}};
    static const std::map<std::string, SpecialRegister> kinds = {{"%tid", SpecialRegister::ThreadIdx},
                                                                 {"%ntid", SpecialRegister::BlockDim},
                                                                 {"%ctaid", SpecialRegister::BlockIdx},
                                                                 {"%nctaid", SpecialRegister::GridDim}};
    const size_t point = name.find('.');
    if (point == std::string::npos || point + 2 != name.size()) return std::nullopt;
    const auto kind = kinds.find(name.substr(0, point));
    const int axis = name.back() - 'x';
    if (kind == kinds.end() || axis < 0 || axis > 2) return std::nullopt;
    return {{kind->second, axis}};
}

}  // namespace

KernelBuilder::KernelBuilder(std::string name, const ModuleSymbols& module) : module_(module) {
    function_->name = std::move(name);
}

Operand KernelBuilder::new_register(RegisterFile file, unsigned num_bytes) {
    int& count = file == RegisterFile::Predicates ? function_->num_predicates
                 : file == RegisterFile::Longs    ? function_->num_longs
                                                  : function_->num_words;
    Operand operand;
    operand.file = file;
    operand.bytes = static_cast<uint8_t>(num_bytes);
    operand.index = count++;
    return operand;
}

void KernelBuilder::close_scope() {
    for (const auto& [name, hidden] : hidden_.back()) {
        if (hidden) registers_[name] = *hidden;
        else registers_.erase(name);
    }
    hidden_.pop_back();
}

void KernelBuilder::declare_register(const std::string& name, Type type) {
    const RegisterFile file = type == Type::Pred    ? RegisterFile::Predicates
                              : bytes_of(type) == 8 ? RegisterFile::Longs
                                                    : RegisterFile::Words;
    hidden_.back().emplace(name, find_register(name));
    registers_[name] = new_register(file, bytes_of(type));
}

void KernelBuilder::declare_parameter(const std::string& name, unsigned num_bytes, unsigned align) {
    const unsigned offset = round_up(function_->parameter_bytes, align);
    function_->parameters.push_back({name, offset, num_bytes});
    function_->parameter_bytes = offset + num_bytes;
}

void KernelBuilder::declare_shared(const std::string& name, SharedVariable variable) {
    variable.offset = round_up(function_->static_shared_bytes, variable.align);
    function_->static_shared_bytes = variable.offset + variable.num_bytes;
    shared_[name] = variable;
}

void KernelBuilder::declare_label(const std::string& name) {
    labels_[name] = static_cast<int>(function_->code.size());
}

std::optional<Operand> KernelBuilder::find_register(const std::string& name) const {
    const auto found = registers_.find(name);
    return found == registers_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Operand> KernelBuilder::special_register(const std::string& name) {
    const auto special = parse_special(name);
    if (!special) return std::nullopt;
    const auto [at, is_new] = specials_.try_emplace(name, 0);
    if (is_new) {
        at->second = new_register(RegisterFile::Words, 4).index;
        function_->initial.specials.push_back({special->first, special->second, at->second});
    }
    Operand operand;
    operand.file = RegisterFile::Words;
    operand.bytes = 4;
    operand.index = at->second;
    return operand;
}

Operand KernelBuilder::constant(uint64_t value, unsigned num_bytes) {
    Operand operand;
    operand.bytes = static_cast<uint8_t>(num_bytes);
    if (num_bytes == 8) {
        operand.file = RegisterFile::Longs;
        const auto [at, is_new] = long_constants_.try_emplace(value, 0);
        if (is_new) {
            at->second = new_register(RegisterFile::Longs, 8).index;
            function_->initial.longs.emplace_back(at->second, value);
        }
        operand.index = at->second;
    } else {
        const auto word = static_cast<uint32_t>(value);
        operand.file = RegisterFile::Words;
        const auto [at, is_new] = word_constants_.try_emplace(word, 0);
        if (is_new) {
            at->second = new_register(RegisterFile::Words, 4).index;
            function_->initial.words.emplace_back(at->second, word);
        }
        operand.index = at->second;
    }
    return operand;
}

std::optional<unsigned> KernelBuilder::shared_offset(const std::string& name) {
    // A variable of the module takes room in the kernels that use it.
    const auto outside = module_.shared.find(name);
    if (outside != module_.shared.end() && !shared_.count(name)) declare_shared(name, outside->second);
    const auto found = shared_.find(name);
    return found == shared_.end() ? std::nullopt : std::optional(found->second.offset);
}

Operand KernelBuilder::dynamic_shared_address(unsigned align, unsigned num_bytes) {
    // Where it begins is known when all static variables are: it gets a register that the launch fills.
    function_->uses_dynamic_shared = true;
    function_->dynamic_shared_align = std::max(function_->dynamic_shared_align, align);
    const RegisterFile file = num_bytes == 8 ? RegisterFile::Longs : RegisterFile::Words;
    InitialValues& initial = function_->initial;
    int& index = num_bytes == 8 ? initial.dynamic_shared_long : initial.dynamic_shared_word;
    if (index < 0) index = new_register(file, num_bytes).index;
    Operand operand;
    operand.file = file;
    operand.bytes = static_cast<uint8_t>(num_bytes);
    operand.index = index;
    return operand;
}

std::optional<Operand> KernelBuilder::address_of(const std::string& name, unsigned num_bytes) {
    for (const Parameter& parameter : function_->parameters) {
        if (parameter.name == name) return constant(kParameterBase + parameter.offset, 8);
    }
    const auto dynamic = module_.dynamic_shared.find(name);
    if (dynamic != module_.dynamic_shared.end()) return dynamic_shared_address(dynamic->second, num_bytes);
    const auto offset = shared_offset(name);
    return offset ? std::optional(constant(kSharedBase + *offset, num_bytes)) : std::nullopt;
}

void KernelBuilder::branch_to(const std::string& label) {
    branches_.emplace_back(function_->code.size(), label);
}

void KernelBuilder::mark_users_of_sums() {
    const auto& sums = function_->sum_names;
    const auto is_sum = [&](const Operand& operand) {
        return operand.file == RegisterFile::Words && sums.count(operand.index) > 0;
    };
    for (Instruction& in : function_->code) {
        in.touches_sums = std::any_of(in.results, in.results + in.num_results, is_sum) ||
                          std::any_of(in.sources, in.sources + in.num_sources, is_sum);
    }
}

std::shared_ptr<Function> KernelBuilder::finish() {
    for (const auto& [at, label] : branches_) {
        const auto found = labels_.find(label);
        if (found == labels_.end()) {
            throw PtxError(concat("label ", label, " of ", function_->name, " is nowhere"));
        }
        function_->code[at].target = found->second;
    }
    if (function_->uses_warp_groups) mark_users_of_sums();
    Instruction end;
    end.step = Step::Exit;
    function_->code.push_back(end);
    function_->live_words = live_at_entry(*function_, RegisterFile::Words);
    function_->live_longs = live_at_entry(*function_, RegisterFile::Longs);
    function_->covered = std::make_unique<std::atomic<uint8_t>[]>(function_->code.size());
    return function_;
}

}  // namespace softgpu
