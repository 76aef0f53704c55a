#include "report.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <sstream>

#include "log.hpp"

namespace softgpu {
namespace {

// Names of calls, kernels and files: nothing in them needs more.
std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        if (static_cast<unsigned char>(c) >= ' ') out += c;
    }
    return out + "\"";
}

template <class Range, class Write>
void list(std::ostream& out, const Range& range, Write write) {
    const char* separator = "";
    for (const auto& item : range) {
        out << separator;
        write(item);
        separator = ", ";
    }
}

void write_kernel(std::ostream& out, const Function& function) {
    const size_t count = function.code.size() - 1;  // without the end that is not in the text
    out << "{\"launches\": " << function.num_launches
        << ", \"instructions\": " << function.num_warp_instructions << ", \"covered\": \"";
    for (size_t index = 0; index < count; index++) out << (function.covered[index] ? '1' : '0');
    out << '"';
    if (function.num_launches > 0) {
        // Where each of the instructions stands, in the PTX and in its source.
        const std::vector<Instruction> code(function.code.begin(), function.code.end() - 1);
        out << ", \"lines\": [";
        list(out, code, [&](const Instruction& in) { out << in.line; });
        out << "], \"source\": [";
        list(out, code, [&](const Instruction& in) { out << quoted(function.source_of(in)); });
        out << ']';
    }
    out << '}';
}

}  // namespace

std::string Report::json() const {
    std::ostringstream out;
    out << "{\"process\": " << getpid() << ", \"calls\": {";
    list(out, calls, [&](const auto& call) { out << quoted(call.first) << ": " << call.second; });
    out << "}, \"waits\": " << waits << ", \"idles\": " << idles
        << ", \"overlapping\": " << overlapping << ", \"violations\": " << violations << ", \"leaks\": " << leaks
        << ", \"races\": " << races << ", \"injected\": " << injected << ", \"kernels\": {";
    list(out, kernels, [&](const auto& kernel) {
        out << quoted(kernel.first) << ": ";
        write_kernel(out, *kernel.second);
    });
    out << "}}\n";
    return out.str();
}

Report& report() {
    static Report* const report = new Report;  // lives until the process ends
    return *report;
}

void violation(const std::string& text) {
    report().violations++;
    say("VIOLATION", text);
}

void leak(const std::string& what, uint64_t count) {
    if (count == 0) return;
    report().leaks += count;
    say("LEAK", concat(count, " ", what, " still alive at exit"));
}

void append_report(const std::string& path) {
    const std::string line = report().json();
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0 || write(file, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
        say("limit", concat("the report cannot be written to ", path));
    }
    if (file >= 0) close(file);
}

}  // namespace softgpu
