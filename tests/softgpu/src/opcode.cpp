#include "opcode.hpp"

#include <sstream>
#include <unordered_map>

#include "log.hpp"

namespace softgpu {
namespace {

template <class T>
using Names = std::unordered_map<std::string, T>;

const Names<Type>& type_names() {
    static const Names<Type> names = {
        {"pred", Type::Pred},     {"b8", Type::B8},   {"u8", Type::U8},   {"s8", Type::S8},
        {"b16", Type::B16},       {"u16", Type::U16}, {"s16", Type::S16}, {"bf16", Type::BF16},
        {"b32", Type::B32},       {"u32", Type::U32}, {"s32", Type::S32}, {"f32", Type::F32},
        {"bf16x2", Type::BF16x2}, {"b64", Type::B64}, {"u64", Type::U64}, {"s64", Type::S64},
        {"f64", Type::F64},       {"tf32", Type::TF32},
    };
    return names;
}

const Names<Rounding>& rounding_names() {
    static const Names<Rounding> names = {
        {"rn", Rounding::Rn},   {"rz", Rounding::Rz},   {"rm", Rounding::Rm},   {"rp", Rounding::Rp},
        {"rni", Rounding::Rni}, {"rzi", Rounding::Rzi}, {"rmi", Rounding::Rmi}, {"rpi", Rounding::Rpi},
        {"rna", Rounding::Rna},
    };
    return names;
}

const Names<Compare>& compare_names() {
    static const Names<Compare> names = {
        {"eq", Compare::Eq},   {"ne", Compare::Ne},   {"lt", Compare::Lt},   {"le", Compare::Le},
        {"gt", Compare::Gt},   {"ge", Compare::Ge},   {"equ", Compare::Equ}, {"neu", Compare::Neu},
        {"ltu", Compare::Ltu}, {"leu", Compare::Leu}, {"gtu", Compare::Gtu}, {"geu", Compare::Geu},
        {"num", Compare::Num}, {"nan", Compare::Nan}, {"lo", Compare::Lt},   {"ls", Compare::Le},
        {"hi", Compare::Gt},   {"hs", Compare::Ge},
    };
    return names;
}

}  // namespace

Opcode::Opcode(const std::string& text) : text_(text) {
    std::istringstream in(text);
    std::getline(in, name_, '.');
    for (std::string part; std::getline(in, part, '.');) {
        if (part == "shared::cta") part = "shared";  // the block's own: the same
        const auto type = type_names().find(part);
        const auto rounding = rounding_names().find(part);
        if (type != type_names().end()) types_.push_back(type->second);
        else if (rounding != rounding_names().end()) rounding_ = rounding->second;
        else modifiers_.push_back({part, false});
    }
}

bool Opcode::has(const std::string& wanted) {
    for (Modifier& modifier : modifiers_) {
        if (modifier.text == wanted) return modifier.understood = true;
    }
    return false;
}

std::optional<Compare> Opcode::comparison() {
    for (Modifier& modifier : modifiers_) {
        const auto found = compare_names().find(modifier.text);
        if (found == compare_names().end()) continue;
        modifier.understood = true;
        return found->second;
    }
    return std::nullopt;
}

void Opcode::ignore_modifiers() {
    for (Modifier& modifier : modifiers_) modifier.understood = true;
}

std::string Opcode::not_understood() const {
    for (const Modifier& modifier : modifiers_) {
        if (!modifier.understood) return modifier.text;
    }
    return "";
}

Type parse_type(TokenStream& tokens) {
    const std::string& word = tokens.current();
    const auto found = type_names().find(word.substr(1));
    if (word[0] != '.' || found == type_names().end()) {
        tokens.fail(concat("type `", word, "` is not covered"));
    }
    tokens.take();
    return found->second;
}

}  // namespace softgpu
