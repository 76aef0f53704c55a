// nccl_selftest LIBCUDA LIBNCCL: a line for every check that fails, and the counts as the last.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "selftest.hpp"

namespace selftest {
namespace {

// A case that takes longer hangs where it should not.
constexpr unsigned kSecondsPerCase = 30;

struct Counts {
    int passed = 0, failed = 0;
};

void *gpu_library = nullptr, *nccl_library = nullptr;
std::string gpu_path, nccl_path, folder, case_name;
Counts counts;

std::string log_path() { return folder + "/log"; }
std::string report_path() { return folder + "/report"; }

std::string read_file(const std::string& path) {
    std::ifstream in(path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

// An address at which nobody listened a moment ago.
std::string free_address() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    const int file = socket(AF_INET, SOCK_STREAM, 0);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (bind(file, any, size) != 0 || getsockname(file, any, &size) != 0) exit(2);
    close(file);
    return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

void* open_library(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
    printf("%s\n", dlerror());
    exit(2);
}

[[noreturn]] void run_in_child(const Case& of, int rank, const std::string& address, int counts_to) {
    alarm(kSecondsPerCase);
    setenv("NCCL_COMM_ID", address.c_str(), 1);
    setenv("SOFTGPU_LOG", log_path().c_str(), 1);
    setenv("NCCL_DOUBLE_REPORT", report_path().c_str(), 1);
    for (const auto& [name, value] : of.environment) setenv(name.c_str(), value.c_str(), 1);
    gpu_library = open_library(gpu_path);
    nccl_library = open_library(nccl_path);
    self().rank = rank;
    self().num_ranks = of.num_ranks;
    of.body();
    if (write(counts_to, &counts, sizeof counts) != static_cast<ssize_t>(sizeof counts)) exit(2);
    exit(0);  // the libraries' last words come with it
}

void run_case(const Case& of) {
    case_name = of.name;
    remove(log_path().c_str());
    remove(report_path().c_str());
    const std::string address = free_address();
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) exit(2);
    fflush(stdout);
    std::vector<pid_t> children;
    for (int rank = 0; rank < of.num_ranks; rank++) {
        children.push_back(fork());
        if (children.back() != 0) continue;
        close(pipe_ends[0]);
        counts = Counts();
        run_in_child(of, rank, address, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    Counts of_child;
    while (read(pipe_ends[0], &of_child, sizeof of_child) == static_cast<ssize_t>(sizeof of_child)) {
        counts.passed += of_child.passed;
        counts.failed += of_child.failed;
    }
    close(pipe_ends[0]);
    for (int rank = 0; rank < of.num_ranks; rank++) {
        int status = 0;
        waitpid(children[static_cast<size_t>(rank)], &status, 0);
        const auto signal = of.signals.find(rank);
        const bool as_it_should = signal == of.signals.end()
                                      ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                                      : WIFSIGNALED(status) && WTERMSIG(status) == signal->second;
        check(as_it_should, "rank " + std::to_string(rank) + " ends as it should");
    }
    const std::string log = read_file(log_path());
    const int failed_before = counts.failed;
    if (of.after) {
        of.after(log, read_file(report_path()));
    } else {
        check(log.empty(), "nothing is said");
    }
    if (counts.failed > failed_before) {
        printf("said in %s:\n%s%s", case_name.c_str(), log.c_str(), read_file(report_path()).c_str());
    }
}

}  // namespace

void* find_symbol(const char* name) {
    void* symbol = dlsym(strncmp(name, "nccl", 4) == 0 ? nccl_library : gpu_library, name);
    if (symbol) return symbol;
    printf("FAILED: %s: there is no %s\n", case_name.c_str(), name);
    exit(2);
}

void check(bool ok, const std::string& what) {
    (ok ? counts.passed : counts.failed)++;
    if (!ok) printf("FAILED: %s: rank %d: %s\n", case_name.c_str(), self().rank, what.c_str());
}

void check_equal(const std::string& what, int64_t got, int64_t want) {
    check(got == want, what + ": " + std::to_string(got) + ", not " + std::to_string(want));
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::function<void(const std::string&, const std::string&)> tells(const std::string& part) {
    return [part](const std::string& log, const std::string&) { check(has(log, part), "`" + part + "` is told"); };
}

int run_all(int num_arguments, char** arguments) {
    if (num_arguments != 3) {
        printf("nccl_selftest LIBCUDA LIBNCCL\n");
        return 2;
    }
    gpu_path = arguments[1];
    nccl_path = arguments[2];
    char temporary[] = "/tmp/nccl-selftest-XXXXXX";
    if (!mkdtemp(temporary)) return 2;
    folder = temporary;
    for (const auto& cases : {transfer_cases(), misuse_cases(), fault_cases()}) {
        for (const Case& each : cases) run_case(each);
    }
    remove(log_path().c_str());
    remove(report_path().c_str());
    rmdir(temporary);
    printf("%d passed, %d failed\n", counts.passed, counts.failed);
    return counts.failed != 0;
}

}  // namespace selftest

int main(int num_arguments, char** arguments) { return selftest::run_all(num_arguments, arguments); }
