// SOFTGPU_PTX_EDIT: a fault planted into a kernel's text, to see whether a test tells it.
#pragma once

#include <regex>
#include <string>

namespace softgpu {

struct PtxEdit {
    std::string kernel;  // `*` is every one
    unsigned nth = 0;    // of the lines that match; 0 is all of them
    std::string pattern_text;
    std::regex pattern;
    std::string replacement;

    // KERNEL|NTH|PATTERN|REPLACEMENT; a bar within PATTERN is written `\|`, within REPLACEMENT as it is.
    // Throws std::invalid_argument or std::regex_error.
    static PtxEdit parse(const std::string& value);

    // The text with the edit made in it. Throws PtxError if it has the kernel and no such line.
    std::string apply(const std::string& text) const;
};

}  // namespace softgpu
