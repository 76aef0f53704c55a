#include "instruction_parser.hpp"

#include <unordered_map>

#include "handlers.hpp"
#include "log.hpp"

namespace softgpu {
namespace {

// How many sources an instruction has, and from which on they are counts or positions in 32 bits whatever its
// type.
struct Form {
    int num_sources;
    int first_count;
};

const std::unordered_map<std::string, Form>& arithmetic_forms() {
    static const std::unordered_map<std::string, Form> forms = {
        {"add", {2, 2}}, {"sub", {2, 2}}, {"div", {2, 2}},   {"rem", {2, 2}},  {"min", {2, 2}},
        {"max", {2, 2}}, {"and", {2, 2}}, {"or", {2, 2}},    {"xor", {2, 2}},  {"not", {1, 1}},
        {"neg", {1, 1}}, {"abs", {1, 1}}, {"shl", {2, 1}},   {"shr", {2, 1}},  {"shf", {3, 2}},
        {"bfe", {3, 1}}, {"bfi", {4, 2}}, {"prmt", {3, 3}},  {"lop3", {3, 3}}, {"popc", {1, 1}},
        {"clz", {1, 1}}, {"fma", {3, 3}}, {"brev", {1, 1}},  {"rcp", {1, 1}},  {"sqrt", {1, 1}},
        {"ex2", {1, 1}}, {"lg2", {1, 1}}, {"rsqrt", {1, 1}}, {"sin", {1, 1}},  {"tanh", {1, 1}},
        {"cos", {1, 1}},
    };
    return forms;
}

}  // namespace

InstructionParser::Rule InstructionParser::find_rule(const std::string& name) {
    using P = InstructionParser;
    static const std::unordered_map<std::string, Rule> rules = {
        {"mul", &P::multiply},  {"mad", &P::multiply},      {"mov", &P::move},
        {"cvt", &P::convert},   {"cvta", &P::to_global},    {"setp", &P::set_predicate},
        {"selp", &P::select},   {"ld", &P::load},           {"st", &P::store},
        {"cp", &P::copy_async}, {"ldmatrix", &P::ldmatrix}, {"mma", &P::mma},
        {"shfl", &P::shuffle},  {"vote", &P::vote},         {"activemask", &P::active_mask},
        {"bar", &P::barrier},   {"barrier", &P::barrier},   {"membar", &P::fence},
        {"fence", &P::fence},   {"atom", &P::atomic},       {"red", &P::atomic},
        {"bra", &P::branch},    {"ret", &P::exit},          {"exit", &P::exit},
        {"trap", &P::trap},     {"griddepcontrol", &P::grid_dependency},
        {"wgmma", &P::warp_group},
    };
    if (arithmetic_forms().count(name)) return &P::arithmetic;
    const auto found = rules.find(name);
    return found == rules.end() ? nullptr : found->second;
}

Instruction InstructionParser::parse() {
    in_ = Instruction();
    in_.line = tokens_.line();
    in_.source_file = source_file_;
    in_.source_line = source_line_;
    guard();
    opcode_ = Opcode(tokens_.take());
    in_.rounding = opcode_.rounding();
    if (!opcode_.types().empty()) in_.type = opcode_.types()[0];
    in_.flush_subnormals = opcode_.has("ftz");
    in_.saturate = opcode_.has("sat");

    const Rule rule = find_rule(opcode_.name());
    if (!rule) not_covered();
    (this->*rule)();
    tokens_.expect(";");

    const std::string rest = opcode_.not_understood();
    if (!rest.empty()) tokens_.fail(concat("`.", rest, "` of `", opcode_.text(), "` is not covered"));
    if (in_.step == Step::Lanes && !in_.handler) not_covered();
    return in_;
}

void InstructionParser::not_covered() {
    throw PtxError(concat("PTX line ", in_.line, ": instruction `", opcode_.text(), "` is not covered"));
}

void InstructionParser::guard() {
    if (!tokens_.accept("@")) return;
    in_.guard_negated = tokens_.accept("!");
    in_.guard = result(Type::Pred).index;
}

// Operands.

void InstructionParser::check_width(const Operand& operand, Type type, Width width) {
    if (type == Type::None) not_covered();  // nobody here knows the type
    const bool is_predicate = operand.file == RegisterFile::Predicates;
    const bool fits =
        is_predicate == (type == Type::Pred) &&
        (width == Width::Exact ? operand.bytes == bytes_of(type) : operand.bytes >= bytes_of(type));
    if (!fits) tokens_.fail(concat("a register of another width than `", opcode_.text(), "` has"));
}

Operand InstructionParser::result(Type type, Width width) {
    const std::string name = tokens_.take();
    const auto found = kernel_.find_register(name);
    if (!found) tokens_.fail(concat("`", name, "` is no register"));
    check_width(*found, type, width);
    return *found;
}

Operand InstructionParser::result_or_sink(Type type, Width width) {
    return tokens_.accept("_") ? Operand() : result(type, width);
}

Operand InstructionParser::source(Type type, Width width) {
    if (tokens_.accept("!")) {
        Operand operand = source(Type::Pred);
        operand.negated = true;
        return operand;
    }
    const bool negative = tokens_.accept("-");
    if (isdigit(static_cast<unsigned char>(tokens_.current()[0]))) return literal(type, negative);
    const std::string name = tokens_.take();
    if (negative) tokens_.fail(concat("minus before `", name, "`"));
    auto found = kernel_.find_register(name);
    if (!found) found = kernel_.special_register(name);
    if (!found) found = kernel_.address_of(name, bytes_of(type));
    if (!found) tokens_.fail(concat("`", name, "` is not declared"));
    check_width(*found, type, width);
    return *found;
}

// 0f and 0d begin the bits of a float; all else is an integer.
Operand InstructionParser::literal(Type type, bool negative) {
    const std::string text = tokens_.take();
    const char kind = text.size() > 1 ? static_cast<char>(tolower(text[1])) : '\0';
    const bool is_single = text.size() == 10 && kind == 'f', is_double = text.size() == 18 && kind == 'd';
    size_t num_read = 0;
    uint64_t value = 0;
    try {
        value = is_single || is_double ? std::stoull(text.substr(2), &num_read, 16)
                                       : std::stoull(text, &num_read, 0);
    } catch (const std::exception&) {
        tokens_.fail(concat("`", text, "` is no number"));
    }
    if (is_single || is_double) {
        const Type literal_type = is_single ? Type::F32 : Type::F64;
        if (bytes_of(type) != bytes_of(literal_type)) tokens_.fail(concat("`", text, "` has another width"));
        if (negative) value ^= uint64_t{1} << (8 * bytes_of(literal_type) - 1);
        return kernel_.constant(value, bytes_of(type));
    }
    if (num_read < text.size() && text.substr(num_read) != "U") {
        tokens_.fail(concat("`", text, "` is no number"));
    }
    if (negative) value = 0 - value;
    if (type == Type::Pred) return kernel_.constant(value ? ~0u : 0, 0);
    return kernel_.constant(value, bytes_of(type));
}

void InstructionParser::add_next_source(Type type, Width width) {
    tokens_.expect(",");
    add_source(type, width);
}

void InstructionParser::add_results_in_braces(Type type, Width width) {
    if (!tokens_.accept("{")) return add_result(type, width);
    do {
        if (in_.num_results == kMaxResults) not_covered();
        in_.add_result(result_or_sink(type, width));
    } while (tokens_.accept(","));
    tokens_.expect("}");
}

void InstructionParser::add_sources_in_braces(Type type, Width width) {
    if (!tokens_.accept("{")) return add_source(type, width);
    do {
        if (in_.num_sources == kMaxSources) not_covered();
        add_source(type, width);
    } while (tokens_.accept(","));
    tokens_.expect("}");
}

// [register+offset], [name+offset]
void InstructionParser::add_address(Space space) {
    tokens_.expect("[");
    const Type shared_address = Type::B32, address = Type::B64;
    const std::string name = tokens_.take();
    auto found = kernel_.find_register(name);
    if (!found) found = kernel_.address_of(name, bytes_of(space == Space::Shared ? shared_address : address));
    if (!found) tokens_.fail(concat("`", name, "` is no address"));
    // An address in shared memory has 32 bits and may lie in 64.
    check_width(*found, space == Space::Shared && found->bytes == 4 ? shared_address : address, Width::Exact);
    if (tokens_.accept("+") || tokens_.current() == "-") in_.offsets[in_.num_sources] = tokens_.number();
    tokens_.expect("]");
    in_.add_source(*found);
}

unsigned InstructionParser::num_in_braces() const {
    unsigned count = 1;
    for (size_t ahead = 1; tokens_.peek(ahead) != "}" && !tokens_.peek(ahead).empty(); ahead++) {
        count += tokens_.peek(ahead) == ",";
    }
    return count;
}

// Arithmetic.

void InstructionParser::arithmetic() {
    std::string operation = opcode_.name();
    const Form form = arithmetic_forms().at(operation);
    opcode_.has("approx");
    if (operation == "div") opcode_.has("full");
    if (operation == "shf") {
        for (const char* modifier : {"l", "r", "wrap", "clamp"}) {
            if (opcode_.has(modifier)) operation += concat(".", modifier);
        }
    }
    const bool counts = operation == "popc" || operation == "clz";
    add_result(counts ? Type::U32 : in_.type);
    for (int index = 0; index < form.num_sources; index++) {
        add_next_source(index < form.first_count ? in_.type : Type::U32);
    }
    if (operation == "lop3") {
        tokens_.expect(",");
        in_.immediate = static_cast<uint32_t>(tokens_.number());
    }
    in_.handler = in_.type == Type::Pred ? predicate_handler(operation)
                  : is_float(in_.type)   ? float_handler(operation, in_)
                                         : integer_handler(operation, in_);
}

void InstructionParser::multiply() {
    std::string operation = opcode_.name();
    const bool has_addend = operation == "mad";
    const bool wide = opcode_.has("wide");
    if (wide) operation += ".wide";
    else if (opcode_.has("hi")) operation += ".hi";
    else if (!is_float(in_.type) && !opcode_.has("lo")) not_covered();

    const Type wider = bytes_of(in_.type) == 4 ? Type::B64 : Type::B32;
    const Type result_type = wide ? wider : in_.type;
    add_result(result_type);
    add_next_source(in_.type);
    add_next_source(in_.type);
    if (has_addend) add_next_source(result_type);
    if (has_addend && is_float(in_.type)) operation = "fma";
    in_.handler = is_float(in_.type) ? float_handler(operation, in_) : integer_handler(operation, in_);
}

void InstructionParser::move() {
    const auto part_type = [&](unsigned count) {
        const unsigned bytes = bytes_of(in_.type) / count;
        return bytes == 4 ? Type::B32 : bytes == 2 ? Type::B16 : Type::B8;
    };
    if (tokens_.current() == "{") {
        add_results_in_braces(part_type(num_in_braces()));
        add_next_source(in_.type);
        in_.handler = unpack_handler(in_);
        return;
    }
    add_result(in_.type);
    tokens_.expect(",");
    if (tokens_.current() == "{") {
        add_sources_in_braces(part_type(num_in_braces()));
        in_.handler = pack_handler(in_);
    } else {
        add_source(in_.type);
        in_.handler = in_.type == Type::Pred ? predicate_handler("mov") : move_handler(in_.type);
    }
}

void InstructionParser::convert() {
    if (opcode_.types().size() != 2) not_covered();
    in_.source_type = opcode_.types()[1];
    add_result(in_.type, Width::AtLeast);
    add_next_source(in_.source_type, Width::AtLeast);
    if (in_.type == Type::BF16x2) add_next_source(in_.source_type, Width::AtLeast);
    in_.handler = convert_handler(in_);
}

void InstructionParser::to_global() {
    // An address of global memory is the same generic address.
    opcode_.has("to");
    if (!opcode_.has("global")) not_covered();
    add_result(in_.type);
    add_next_source(in_.type);
    in_.handler = move_handler(in_.type);
}

void InstructionParser::set_predicate() {
    const auto compare = opcode_.comparison();
    if (!compare) not_covered();
    in_.compare = *compare;
    const char* const operations[] = {"and", "or", "xor"};
    for (uint32_t index = 0; index < 3; index++) {
        if (opcode_.has(operations[index])) in_.immediate = index + 1;
    }
    in_.add_result(result_or_sink(Type::Pred));
    if (tokens_.accept("|")) in_.add_result(result_or_sink(Type::Pred));
    add_next_source(in_.type);
    add_next_source(in_.type);
    if (in_.immediate != 0) add_next_source(Type::Pred);
    in_.handler = compare_handler(in_);
}

void InstructionParser::select() {
    add_result(in_.type);
    add_next_source(in_.type);
    add_next_source(in_.type);
    add_next_source(Type::Pred);
    in_.handler = select_handler(in_.type);
}

// Memory.

void InstructionParser::memory_space() {
    // A generic address is one of global memory here: nothing makes one of shared memory, as cvta is refused
    // for it.
    if (opcode_.has("shared")) in_.space = Space::Shared;
    else if (opcode_.has("param")) in_.space = Space::Param;
    else opcode_.has("global");
}

void InstructionParser::vector_length() {
    if (opcode_.has("v2")) in_.num_elems = 2;
    else if (opcode_.has("v4")) in_.num_elems = 4;
}

void InstructionParser::load() {
    memory_space();
    vector_length();
    opcode_.has("nc");
    opcode_.has("volatile");
    add_results_in_braces(in_.type, Width::AtLeast);
    tokens_.expect(",");
    add_address(in_.space);
    if (in_.num_results != in_.num_elems) tokens_.fail("vector and registers differ in number");
    in_.handler = load_handler(in_);
}

void InstructionParser::store() {
    memory_space();
    if (in_.space == Space::Param) not_covered();
    vector_length();
    opcode_.has("volatile");
    add_address(in_.space);
    tokens_.expect(",");
    add_sources_in_braces(in_.type, Width::AtLeast);
    if (in_.num_sources != in_.num_elems + 1) tokens_.fail("vector and registers differ in number");
    in_.handler = store_handler(in_);
}

void InstructionParser::copy_async() {
    if (!opcode_.has("async")) not_covered();
    if (opcode_.has("commit_group")) {
        in_.handler = copy_commit_handler();
    } else if (opcode_.has("wait_group")) {
        in_.immediate = static_cast<uint32_t>(tokens_.number());
        in_.handler = copy_wait_handler();
    } else if (opcode_.has("wait_all")) {
        in_.handler = copy_wait_all_handler();
    } else {
        const bool past_l1 = opcode_.has("cg");
        if (!past_l1 && !opcode_.has("ca")) not_covered();
        if (!opcode_.has("shared") || !opcode_.has("global")) not_covered();
        add_address(Space::Shared);
        tokens_.expect(",");
        add_address(Space::Global);
        tokens_.expect(",");
        in_.immediate = static_cast<uint32_t>(tokens_.number());
        const bool known = in_.immediate == 16 || (!past_l1 && (in_.immediate == 4 || in_.immediate == 8));
        if (!known) tokens_.fail(concat("a copy of ", in_.immediate, " bytes"));
        if (tokens_.accept(",")) {
            // Either the bytes to read, or the predicate that nothing is to be read.
            const auto named = kernel_.find_register(tokens_.current());
            add_source(named && named->file == RegisterFile::Predicates ? Type::Pred : Type::U32);
        }
        in_.handler = copy_async_handler();
    }
}

void InstructionParser::atomic() {
    memory_space();
    if (in_.space == Space::Param) not_covered();
    std::string operation;
    for (const char* name : {"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"}) {
        if (opcode_.has(name)) operation = name;
    }
    if (opcode_.name() == "atom") {
        add_result(in_.type);
        tokens_.expect(",");
    }
    add_address(in_.space);
    add_next_source(in_.type);
    if (operation == "cas") add_next_source(in_.type);
    in_.handler = atomic_handler(operation, in_);
}

// The warp and the block.

void InstructionParser::shuffle() {
    std::string mode;
    for (const char* name : {"up", "down", "bfly", "idx"}) {
        if (opcode_.has(name)) mode = name;
    }
    if (!opcode_.has("sync") || mode.empty()) not_covered();
    in_.step = Step::MemberMask;
    in_.add_result(result_or_sink(Type::B32));
    if (tokens_.accept("|")) in_.add_result(result_or_sink(Type::Pred));
    in_.add_source(Operand());  // the members, which come last in the text
    for (int index = 0; index < 3; index++) add_next_source(Type::B32);
    tokens_.expect(",");
    in_.sources[0] = source(Type::B32);
    in_.handler = shuffle_handler(mode);
}

void InstructionParser::vote() {
    std::string mode;
    for (const char* name : {"all", "any", "uni", "ballot"}) {
        if (opcode_.has(name)) mode = name;
    }
    if (!opcode_.has("sync") || mode.empty()) not_covered();
    in_.step = Step::MemberMask;
    add_result(mode == "ballot" ? Type::B32 : Type::Pred);
    in_.add_source(Operand());
    add_next_source(Type::Pred);
    tokens_.expect(",");
    in_.sources[0] = source(Type::B32);
    in_.handler = vote_handler(mode);
}

void InstructionParser::active_mask() {
    add_result(Type::B32);
    in_.handler = active_mask_handler();
}

void InstructionParser::barrier() {
    if (!opcode_.has("sync")) not_covered();
    if (opcode_.has("warp")) {
        in_.step = Step::MemberMask;
        add_source(Type::B32);
        in_.handler = nothing_handler();
        return;
    }
    // `barrier` without .aligned lets the lanes of a warp come to different barriers.
    opcode_.has("cta");
    if (opcode_.name() == "barrier" && !opcode_.has("aligned")) not_covered();
    if (tokens_.take() != "0" || tokens_.current() != ";") {
        tokens_.fail("a barrier other than 0, or of fewer threads, is not covered");
    }
    in_.step = Step::BlockBarrier;
}

void InstructionParser::fence() {
    if (opcode_.has("proxy")) return proxy_fence();
    opcode_.ignore_modifiers();
    in_.handler = nothing_handler();
}

void InstructionParser::grid_dependency() {
    if (target_.capability < 90) tokens_.fail("griddepcontrol needs sm_90");
    in_.handler = opcode_.has("wait")                ? launches_before_handler()
                  : opcode_.has("launch_dependents") ? nothing_handler()
                                                     : nullptr;
}

void InstructionParser::branch() {
    opcode_.has("uni");
    in_.step = Step::Branch;
    kernel_.branch_to(tokens_.take());
}

void InstructionParser::exit() { in_.step = Step::Exit; }

void InstructionParser::trap() { in_.handler = trap_handler(); }

}  // namespace softgpu
