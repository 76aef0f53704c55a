#include "settings.hpp"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "tell.hpp"

namespace nccl_double {
namespace {

// Those that give a result, and are called where the process has a rank.
const char* const kInjectable[] = {"ncclCommInitRank", "ncclCommDestroy", "ncclCommGetAsyncError",
                                   "ncclGroupStart",   "ncclGroupEnd",    "ncclSend",
                                   "ncclRecv",         "ncclAllGather",   "ncclBroadcast"};

Injection read_injection(const std::string& value) {
    std::smatch parts;
    const std::regex pattern("([0-9]{1,2})@(nccl[A-Za-z]+):([1-9][0-9]{0,8}):([1-8]|hang)");
    if (!std::regex_match(value, parts, pattern)) {
        throw std::invalid_argument("RANK@FUNCTION:NTH:WHAT is expected, as in 1@ncclAllGather:3:6");
    }
    if (std::find(std::begin(kInjectable), std::end(kInjectable), parts[2].str()) == std::end(kInjectable)) {
        throw std::invalid_argument(concat(parts[2], " cannot be made to fail"));
    }
    const bool hangs = parts[4] == "hang";
    return {std::stoi(parts[1]), parts[2], std::stoull(parts[3]), hangs ? 0 : std::stoi(parts[4]), hangs};
}

Settings read_environment() {
    Settings settings;
    const std::string prefix = "NCCL_DOUBLE_";
    for (char** variable = environ; *variable; variable++) {
        const std::string entry = *variable;
        if (entry.compare(0, prefix.size(), prefix) != 0) continue;
        const size_t equals = entry.find('=');
        const std::string name = entry.substr(prefix.size(), equals - prefix.size());
        const std::string value = entry.substr(equals + 1);
        try {
            if (name == "FAIL") {
                std::istringstream faults(value);
                for (std::string fault; std::getline(faults, fault, ',');) {
                    settings.injections.push_back(read_injection(fault));
                }
            } else if (name == "REPORT") {
                settings.report = value;
            } else {
                throw std::invalid_argument("not a variable of the double");
            }
        } catch (const std::exception& error) {
            settings.errors.push_back(concat(entry, ": ", error.what()));
        }
    }
    return settings;
}

}  // namespace

const Settings& settings() {
    static const Settings* const read = new Settings(read_environment());  // still needed at exit
    return *read;
}

}  // namespace nccl_double
