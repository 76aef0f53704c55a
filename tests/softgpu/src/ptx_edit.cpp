#include "ptx_edit.hpp"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "log.hpp"
#include "program.hpp"

namespace softgpu {
namespace {

// The name that `.entry` gives on this line, or nothing.
std::string entry_name(const std::string& line) {
    static const std::regex entry(R"(^\s*(?:\.visible\s+|\.weak\s+)*\.entry\s+([A-Za-z0-9_$]+))");
    std::smatch found;
    return std::regex_search(line, found, entry) ? found[1].str() : "";
}

}  // namespace

PtxEdit PtxEdit::parse(const std::string& value) {
    const std::invalid_argument malformed("KERNEL|NTH|PATTERN|REPLACEMENT is expected");
    const size_t first = value.find('|');
    const size_t second = first == std::string::npos ? first : value.find('|', first + 1);
    if (second == std::string::npos || first == 0) throw malformed;
    size_t third = value.find('|', second + 1);
    while (third != std::string::npos && value[third - 1] == '\\') third = value.find('|', third + 1);
    const std::string nth = value.substr(first + 1, second - first - 1);
    const bool is_number =
        !nth.empty() && nth.size() < 7 && nth.find_first_not_of("0123456789") == std::string::npos;
    if (third == std::string::npos || third == second + 1 || !is_number) throw malformed;

    PtxEdit edit;
    edit.kernel = value.substr(0, first);
    edit.nth = static_cast<unsigned>(std::stoul(nth));
    edit.pattern_text = value.substr(second + 1, third - second - 1);
    edit.pattern = std::regex(edit.pattern_text, std::regex::ECMAScript);
    edit.replacement = value.substr(third + 1);
    return edit;
}

std::string PtxEdit::apply(const std::string& text) const {
    std::istringstream in(text);
    std::string out, inside;  // `inside`: the kernel whose lines these are
    long depth = 0;           // of its braces
    unsigned num_matches = 0;
    bool has_kernel = false, edited = false;
    for (std::string line; std::getline(in, line);) {
        if (const std::string name = entry_name(line); !name.empty()) {
            inside = name;
            depth = 0;
            num_matches = 0;
            has_kernel |= name == kernel;
        }
        const bool wanted = !inside.empty() && (kernel == "*" || kernel == inside);
        if (wanted && std::regex_search(line, pattern) && (nth == 0 || ++num_matches == nth)) {
            line = std::regex_replace(line, pattern, replacement);
            edited = true;
        }
        const long before = depth;
        depth += std::count(line.begin(), line.end(), '{') - std::count(line.begin(), line.end(), '}');
        if (before > 0 && depth <= 0) inside.clear();
        out += line + "\n";
    }
    if (has_kernel && !edited) {
        throw PtxError(
            concat("SOFTGPU_PTX_EDIT: `", pattern_text, "` matches no line ", nth, " of ", kernel));
    }
    return out;
}

}  // namespace softgpu
