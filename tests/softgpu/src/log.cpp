#include "log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

namespace softgpu {
namespace {

// Below 0 if it cannot be opened.
int log_file() {
    static const int file = [] {
        const char* path = getenv("SOFTGPU_LOG");
        return path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : STDERR_FILENO;
    }();
    return file;
}

}  // namespace

std::string hex(uint64_t value) {
    std::ostringstream out;
    out << "0x" << std::hex << value;
    return out.str();
}

bool log_is_open() { return log_file() >= 0; }

void say(const char* kind, const std::string& text) {
    const std::string line = concat("softgpu: ", kind, ": ", text, "\n");
    // One write, so that the lines of several processes do not mix. There is nobody to tell if it fails.
    [[maybe_unused]] const ssize_t written =
        write(log_is_open() ? log_file() : STDERR_FILENO, line.data(), line.size());
}

}  // namespace softgpu
