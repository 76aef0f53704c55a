#include "tell.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <mutex>

namespace nccl_double {
namespace {

struct Lines {
    std::mutex mutex;
    std::deque<std::string> all;  // their addresses are given out
};

Lines& lines() {
    static Lines* const lines = new Lines;  // still needed at exit
    return *lines;
}

int log_file() {
    static const int file = [] {
        const char* path = getenv("SOFTGPU_LOG");
        const int opened = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
        return opened < 0 ? STDERR_FILENO : opened;
    }();
    return file;
}

}  // namespace

void say(const std::string& kind, const std::string& text) {
    const std::string line = concat("nccl double: ", kind, ": ", text);
    const std::string ended = line + "\n";
    // One write, so that the lines of several processes do not mix. There is nobody to tell if it fails.
    [[maybe_unused]] const ssize_t written = write(log_file(), ended.data(), ended.size());
    const std::lock_guard<std::mutex> lock(lines().mutex);
    lines().all.push_back(line);
}

const char* last_line() {
    const std::lock_guard<std::mutex> lock(lines().mutex);
    return lines().all.empty() ? "" : lines().all.back().c_str();
}

}  // namespace nccl_double
