// An opcode such as `cvt.rn.f32.u16`, taken apart.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "program.hpp"
#include "token_stream.hpp"

namespace softgpu {

class Opcode {
 public:
    Opcode() = default;
    explicit Opcode(const std::string& text);

    const std::string& text() const { return text_; }
    const std::string& name() const { return name_; }          // before the first point
    const std::vector<Type>& types() const { return types_; }  // in their order
    Rounding rounding() const { return rounding_; }

    // Whether the modifier is there; from then on it counts as understood.
    bool has(const std::string& modifier);
    std::optional<Compare> comparison();
    void ignore_modifiers();

    // A modifier that nothing has asked for, or an empty string.
    std::string not_understood() const;

 private:
    struct Modifier {
        std::string text;
        bool understood;
    };

    std::string text_, name_;
    std::vector<Modifier> modifiers_;
    std::vector<Type> types_;
    Rounding rounding_ = Rounding::None;
};

// Takes `.f32`. Throws PtxError for what is no type, and for types that are not covered.
Type parse_type(TokenStream& tokens);

}  // namespace softgpu
