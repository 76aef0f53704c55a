// selftest LIBCUDA: a line for every check that fails and every planted fault, and the counts as the last.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "selftest.hpp"

namespace selftest {
namespace {

struct Counts {
    int passed = 0, failed = 0, planted = 0, told = 0;
};

void* library = nullptr;
std::string library_path, folder, group_name;
size_t log_read_bytes = 0;
Counts counts;

std::string log_path() { return folder + "/log"; }
std::string report_path() { return folder + "/report"; }

std::string read_file(const std::string& path) {
    std::ifstream in(path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

// The line of this kind that comes first, or nothing.
std::string first_line(const std::string& log, const std::string& kind) {
    const std::string prefix = "softgpu: " + kind + ": ";
    std::istringstream in(log);
    for (std::string line; std::getline(in, line);) {
        if (line.compare(0, prefix.size(), prefix) == 0) return line.substr(prefix.size());
    }
    return "";
}

[[noreturn]] void run_in_child(const Group& group, int counts_to) {
    for (const auto& [name, value] : group.environment) setenv(name.c_str(), value.c_str(), 1);
    setenv("SOFTGPU_LOG", log_path().c_str(), 1);
    setenv("SOFTGPU_REPORT", report_path().c_str(), 1);
    library = dlopen(library_path.c_str(), RTLD_NOW);
    if (!library) {
        printf("%s\n", dlerror());
        exit(2);
    }
    group.body();
    if (write(counts_to, &counts, sizeof counts) != static_cast<ssize_t>(sizeof counts)) exit(2);
    exit(0);  // the library's last words come with it
}

void run_group(const Group& group) {
    group_name = group.name;
    remove(log_path().c_str());
    remove(report_path().c_str());
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) exit(2);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        counts = Counts();
        run_in_child(group, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    Counts of_child;
    const bool answered =
        read(pipe_ends[0], &of_child, sizeof of_child) == static_cast<ssize_t>(sizeof of_child);
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    counts.passed += of_child.passed;
    counts.failed += of_child.failed;
    counts.planted += of_child.planted;
    counts.told += of_child.told;
    check(answered && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process ends as it should");
    if (group.after) group.after(read_file(log_path()), read_file(report_path()));
}

}  // namespace

void* find_symbol(const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol) return symbol;
    printf("FAILED: %s: the library has no %s\n", group_name.c_str(), name);
    exit(2);
}

void check(bool ok, const std::string& what) {
    (ok ? counts.passed : counts.failed)++;
    if (!ok) printf("FAILED: %s: %s\n", group_name.c_str(), what.c_str());
}

void check_equal(const std::string& what, int64_t got, int64_t want) {
    char text[100];
    snprintf(text, sizeof text, ": %lld (%#llx), not %lld (%#llx)", static_cast<long long>(got),
             static_cast<unsigned long long>(got), static_cast<long long>(want),
             static_cast<unsigned long long>(want));
    check(got == want, what + text);
}

std::string take_log() {
    const std::string log = read_file(log_path());
    const std::string fresh = log.substr(std::min(log_read_bytes, log.size()));
    log_read_bytes = log.size();
    return fresh;
}

void planted(const std::string& what, int code, int expected_code, const std::string& kind) {
    check_equal(what, code, expected_code);
    const std::string line = first_line(take_log(), kind);
    counts.planted++;
    if (line.empty()) {
        printf("FAILED: %s: %s is not told\n", group_name.c_str(), what.c_str());
        counts.failed++;
        return;
    }
    counts.told++;
    printf("told: %s: %s\n", what.c_str(), line.c_str());
}

Session& session() {
    static Session open;
    return open;
}

void open_session() {
    check_equal("cuInit", cu("cuInit", 0u), 0);
    Session& open = session();
    check_equal("cuDevicePrimaryCtxRetain", cu("cuDevicePrimaryCtxRetain", &open.context, 0), 0);
    cu("cuCtxSetCurrent", open.context);
    check_equal("cuStreamCreate", cu("cuStreamCreate", &open.stream, 1u), 0);
    check_equal("cuMemAlloc", cu("cuMemAlloc_v2", &open.buffer, kWords * 4), 0);
}

void close_session() {
    check_equal("cuMemFree", cu("cuMemFree_v2", session().buffer), 0);
    check_equal("cuStreamDestroy", cu("cuStreamDestroy_v2", session().stream), 0);
    check_equal("cuDevicePrimaryCtxRelease", cu("cuDevicePrimaryCtxRelease_v2", 0), 0);
}

void reopen_session() {
    cu("cuDevicePrimaryCtxRelease_v2", 0);
    open_session();
    take_log();
}

void upload(uint64_t to, const void* from, size_t num_bytes) {
    cu("cuMemcpyHtoDAsync_v2", to, from, num_bytes, session().stream);
}

void download(void* to, uint64_t from, size_t num_bytes) {
    cu("cuMemcpyDtoHAsync_v2", to, from, num_bytes, session().stream);
}

std::string kernel_text(const std::string& body, const std::string& declarations,
                        const std::string& outside) {
    const std::string head = ".version 9.0\n.target sm_80\n.address_size 64\n";
    const std::string registers = R"(
.visible .entry k(.param .u64 p0, .param .u32 p1)
{
.reg .pred %p<20>;
.reg .b16 %h<20>;
.reg .b32 %r<60>;
.reg .f32 %f<60>;
.reg .b64 %d<20>;
.reg .f64 %e<9>;
)";
    const std::string arguments = R"(
ld.param.u64 %d0, [p0];
cvta.to.global.u64 %d0, %d0;
ld.param.u32 %r0, [p1];
mov.u32 %r1, %tid.x;
mul.wide.u32 %d1, %r1, 4;
add.s64 %d1, %d0, %d1;
)";
    return head + outside + registers + declarations + arguments + body + "\nret;\n}\n";
}

std::string on_target(const std::string& target, const std::string& text) {
    const std::string before = ".target sm_80\n";
    const size_t at = text.find(before);
    return text.substr(0, at) + ".target " + target + "\n" + text.substr(at + before.size());
}

int launch_with_attribute(int id, void* function, const Run& how, void** parameters) {
    struct Attribute {
        int id, padding, value;
        char rest[60];
    } attribute = {id, 0, 1, {}};
    struct Config {
        unsigned grid[3], block[3], shared_bytes;
        void* stream;
        const Attribute* attributes;
        unsigned num_attributes;
    } config = {{how.grid, 1, 1}, {how.block, 1, 1}, how.shared_bytes, session().stream, &attribute, 1};
    return cu("cuLaunchKernelEx", static_cast<const Config*>(&config), function, parameters,
              static_cast<void**>(nullptr));
}

Result run(const std::string& text, const Run& how) {
    Session& open = session();
    std::vector<uint32_t> words = how.input;
    words.resize(kWords);
    void *module = nullptr, *function = nullptr;
    if (const int code = cu("cuModuleLoadData", &module, static_cast<const void*>(text.c_str()))) {
        return {code, words};
    }
    cu("cuModuleGetFunction", &function, module, "k");
    upload(open.buffer, words.data(), kWords * 4);
    uint32_t argument = how.argument;
    void* parameters[] = {&open.buffer, &argument};
    constexpr int kProgrammaticStreamSerialization = 6;
    int code = how.overlaps
                   ? launch_with_attribute(kProgrammaticStreamSerialization, function, how, parameters)
                   : cu("cuLaunchKernel", function, how.grid, 1u, 1u, how.block, 1u, 1u, how.shared_bytes,
                        open.stream, static_cast<void**>(parameters), static_cast<void**>(nullptr));
    if (code == 0) code = cu("cuStreamSynchronize", open.stream);
    if (code == 0) download(words.data(), open.buffer, kWords * 4);
    cu("cuModuleUnload", module);
    return {code, words};
}

int run_all(int num_arguments, char** arguments) {
    if (num_arguments != 2) {
        printf("selftest LIBCUDA\n");
        return 2;
    }
    library_path = arguments[1];
    char temporary[] = "/tmp/softgpu-selftest-XXXXXX";
    if (!mkdtemp(temporary)) return 2;
    folder = temporary;
    for (const auto& groups : {instruction_groups(), warp_groups(), matrix_groups(), fault_groups(),
                               driver_groups(), variable_groups(),
                               product_groups(), product_fault_groups()}) {
        for (const Group& group : groups) run_group(group);
    }
    remove(log_path().c_str());
    remove(report_path().c_str());
    rmdir(temporary);
    printf("%d passed, %d failed, %d faults planted, %d told\n", counts.passed, counts.failed, counts.planted,
           counts.told);
    return counts.failed != 0;
}

}  // namespace selftest

int main(int num_arguments, char** arguments) { return selftest::run_all(num_arguments, arguments); }
