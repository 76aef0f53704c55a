// The structure of a module: directives, declarations and kernels. Instructions are read by
// InstructionParser.
#include <algorithm>
#include <memory>
#include <sstream>

#include "instruction_parser.hpp"
#include "kernel_builder.hpp"
#include "log.hpp"
#include "opcode.hpp"
#include "program.hpp"
#include "token_stream.hpp"

namespace softgpu {
namespace {

class ModuleParser {
 public:
    explicit ModuleParser(const std::string& text) : tokens_(tokenise(text)) {
        auto lines = std::make_shared<std::vector<std::string>>();
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);) lines->push_back(line);
        lines_ = lines;
    }

    Program run() {
        while (!tokens_.at_end()) directive();
        return std::move(program_);
    }

 private:
    struct Declaration {
        std::string name;
        unsigned num_bytes, align;
        bool is_open;  // `name[]`
    };

    void directive() {
        const std::string word = tokens_.current();
        if (word == ".version" || word == ".address_size") tokens_.skip_line();
        else if (word == ".target") target();
        else if (word == ".file") file();
        else if (word == ".section") tokens_.skip_past("}");
        else if (word == ".visible" || word == ".weak") tokens_.take();
        else if (word == ".extern" || word == ".shared") module_shared();
        else if (word == ".entry") kernel();
        else tokens_.fail(concat("directive `", word, "` is not covered"));
    }

    void target() {
        tokens_.expect(".target");
        const std::string& name = tokens_.current();
        const bool is_known = name.compare(0, 3, "sm_") == 0;
        char* suffix = nullptr;
        const auto capability = is_known ? static_cast<unsigned>(strtoul(name.c_str() + 3, &suffix, 10)) : 0;
        const std::string specific = is_known ? suffix : "";
        if (!is_known || (!specific.empty() && specific != "a")) {
            tokens_.fail(concat("target `", name, "` is not covered"));
        }
        program_.target = {capability, !specific.empty()};
        tokens_.skip_line();
    }

    void file() {
        tokens_.expect(".file");
        const int number = static_cast<int>(tokens_.number());
        const std::string& quoted = tokens_.current();
        const std::string path = quoted.substr(1, quoted.size() - 2);
        (*file_names_)[number] = path.substr(path.rfind('/') + 1);
        tokens_.skip_line();
    }

    // What follows `.param` or `.shared`, up to and with the brackets.
    Declaration declaration() {
        unsigned align = 1;
        if (tokens_.accept(".align")) align = static_cast<unsigned>(tokens_.number());
        const Type type = parse_type(tokens_);
        while (tokens_.current() == ".ptr" || tokens_.current() == ".global") tokens_.take();
        if (tokens_.accept(".align")) tokens_.number();  // of what the pointer points to
        Declaration declared{tokens_.take(), bytes_of(type), std::max(align, bytes_of(type)), false};
        while (tokens_.accept("[")) {
            declared.is_open |= tokens_.current() == "]";
            if (!declared.is_open) declared.num_bytes *= static_cast<unsigned>(tokens_.number());
            tokens_.expect("]");
        }
        return declared;
    }

    void module_shared() {
        const bool is_extern = tokens_.accept(".extern");
        tokens_.expect(".shared");
        const Declaration declared = declaration();
        tokens_.expect(";");
        if (is_extern || declared.is_open) symbols_.dynamic_shared[declared.name] = declared.align;
        else symbols_.shared[declared.name] = {declared.num_bytes, declared.align, 0};
    }

    void kernel() {
        tokens_.expect(".entry");
        KernelBuilder builder(tokens_.take(), symbols_);
        if (tokens_.accept("(")) parameters(builder);
        while (tokens_.current() != "{") limits(builder);
        body(builder);
        const std::shared_ptr<Function> function = builder.finish();
        function->text = lines_;
        function->file_names = file_names_;
        program_.functions[function->name] = function;
    }

    void parameters(KernelBuilder& builder) {
        while (!tokens_.accept(")")) {
            tokens_.accept(",");
            tokens_.expect(".param");
            const Declaration declared = declaration();
            builder.declare_parameter(declared.name, declared.num_bytes, declared.align);
        }
    }

    void limits(KernelBuilder& builder) {
        const std::string word = tokens_.current();
        if (word == ".maxntid") {
            unsigned threads = 1;
            do {
                tokens_.take();
                threads *= static_cast<unsigned>(tokens_.number());
            } while (tokens_.current() == ",");
            builder.function().max_threads = threads;
        } else if (word == ".minnctapersm" || word == ".maxnreg") {
            tokens_.skip_line();
        } else {
            tokens_.fail(concat("directive `", word, "` of a kernel is not covered"));
        }
    }

    void body(KernelBuilder& builder) {
        InstructionParser instructions(tokens_, builder, program_.target);
        int depth = 0;
        do {
            const std::string word = tokens_.current();
            if (tokens_.accept("{")) {
                builder.open_scope();
                depth++;
            } else if (tokens_.accept("}")) {
                builder.close_scope();
                depth--;
            } else if (tokens_.peek(1) == ":") {
                builder.declare_label(tokens_.take());
                tokens_.expect(":");
            } else if (word == ".loc") {
                location(instructions);
            } else if (word == ".reg") {
                registers(builder);
            } else if (word == ".shared") {
                kernel_shared(builder);
            } else if (word == ".pragma") {
                tokens_.skip_past(";");
            } else if (word[0] == '.') {
                tokens_.fail(concat("directive `", word, "` in a kernel is not covered"));
            } else if (!tokens_.accept(";")) {
                builder.append(instructions.parse());
            }
        } while (depth > 0);
    }

    void location(InstructionParser& instructions) {
        tokens_.expect(".loc");
        const int file = static_cast<int>(tokens_.number());
        const int line = static_cast<int>(tokens_.number());
        instructions.set_source(file, line);
        tokens_.skip_line();
    }

    void registers(KernelBuilder& builder) {
        tokens_.expect(".reg");
        const Type type = parse_type(tokens_);
        do {
            const std::string name = tokens_.take();
            if (tokens_.accept("<")) {
                const long count = tokens_.number();
                tokens_.expect(">");
                for (long index = 0; index < count; index++) {
                    builder.declare_register(name + std::to_string(index), type);
                }
            } else {
                builder.declare_register(name, type);
            }
        } while (tokens_.accept(","));
        tokens_.expect(";");
    }

    void kernel_shared(KernelBuilder& builder) {
        tokens_.expect(".shared");
        const Declaration declared = declaration();
        tokens_.expect(";");
        builder.declare_shared(declared.name, {declared.num_bytes, declared.align, 0});
    }

    TokenStream tokens_;
    Program program_;
    ModuleSymbols symbols_;
    std::shared_ptr<const std::vector<std::string>> lines_;
    std::shared_ptr<std::map<int, std::string>> file_names_ = std::make_shared<std::map<int, std::string>>();
};

}  // namespace

Program parse_ptx(const std::string& text) { return ModuleParser(text).run(); }

std::string Function::text_of(const Instruction& instruction) const {
    if (instruction.line < 1 || instruction.line > static_cast<int>(text->size())) return "";
    const std::string& line = (*text)[static_cast<size_t>(instruction.line) - 1];
    return line.substr(std::min(line.find_first_not_of(" \t"), line.size()));
}

std::string Function::source_of(const Instruction& instruction) const {
    const auto file = file_names->find(instruction.source_file);
    return file == file_names->end() ? "" : concat(file->second, ":", instruction.source_line);
}

}  // namespace softgpu
