// PTX text as words.
#pragma once

#include <string>
#include <vector>

namespace softgpu {

struct Token {
    std::string text;
    int line;
};

// Opcodes, names, numbers and directives are one token each, with their points; so is a string with its
// quotes.
std::vector<Token> tokenise(const std::string& text);

}  // namespace softgpu
