#include "report.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "settings.hpp"
#include "tell.hpp"

namespace nccl_double {
namespace {

struct Report {
    std::mutex mutex;
    int rank = -1, num_ranks = 0;
    std::map<std::string, uint64_t> calls;
    uint64_t bytes_sent = 0, joined = 0, destroyed = 0;

    std::string json() const {
        std::ostringstream out;
        out << "{\"rank\":" << rank << ",\"ranks\":" << num_ranks << ",\"calls\":{";
        const char* separator = "";
        for (const auto& [function, count] : calls) {
            out << separator << '"' << function << "\":" << count;
            separator = ",";
        }
        const bool all_destroyed = joined > 0 && destroyed == joined;
        out << "},\"bytes_sent\":" << bytes_sent << ",\"destroyed\":" << (all_destroyed ? "true" : "false") << "}\n";
        return out.str();
    }
};

Report& report() {
    static Report* const report = new Report;  // lives until the process ends
    return *report;
}

struct AtExit {
    ~AtExit() {
        const std::string& path = settings().report;
        const std::lock_guard<std::mutex> lock(report().mutex);
        if (path.empty() || report().calls.empty()) return;
        const std::string line = report().json();
        // One write: the processes of all ranks share the file.
        const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (file < 0 || write(file, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
            say("limit", concat("the report cannot be written to ", path));
        }
        if (file >= 0) close(file);
    }
} at_exit;

}  // namespace

uint64_t count_call(const std::string& function) {
    const std::lock_guard<std::mutex> lock(report().mutex);
    return ++report().calls[function];
}

void count_bytes_sent(uint64_t num_bytes) {
    const std::lock_guard<std::mutex> lock(report().mutex);
    report().bytes_sent += num_bytes;
}

void set_rank(int rank, int num_ranks) {
    const std::lock_guard<std::mutex> lock(report().mutex);
    report().rank = rank;
    report().num_ranks = num_ranks;
}

int rank_of_process() {
    const std::lock_guard<std::mutex> lock(report().mutex);
    return report().rank;
}

void count_joined() {
    const std::lock_guard<std::mutex> lock(report().mutex);
    report().joined++;
}

void count_destroyed() {
    const std::lock_guard<std::mutex> lock(report().mutex);
    report().destroyed++;
}

}  // namespace nccl_double
