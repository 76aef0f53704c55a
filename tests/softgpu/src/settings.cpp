#include "settings.hpp"

#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <regex>
#include <stdexcept>

#include "log.hpp"

namespace softgpu {
namespace {

// Throws std::invalid_argument with what was expected instead.
using Reader = std::function<void(const std::string& value)>;

template <class T>
Reader number(T& target, uint64_t min, uint64_t max) {
    return [&target, min, max](const std::string& value) {
        const bool digits = !value.empty() && value.find_first_not_of("0123456789") == std::string::npos;
        const uint64_t read = digits && value.size() < 19 ? std::stoull(value) : ~uint64_t{0};
        if (read < min || read > max) {
            throw std::invalid_argument(concat("a whole number from ", min, " to ", max, " is expected"));
        }
        target = static_cast<T>(read);
    };
}

Reader mebibytes(size_t& target) {
    return [&target](const std::string& value) {
        number(target, 0, 1 << 30)(value);
        target <<= 20;
    };
}

Reader flag(bool& target) { return number(target, 0, 1); }

Reader string(std::string& target) {
    return [&target](const std::string& value) { target = value; };
}

std::smatch match(const std::string& value, const char* pattern, const char* expected) {
    std::smatch parts;
    if (!std::regex_match(value, parts, std::regex(pattern))) throw std::invalid_argument(expected);
    return parts;
}

Reader capability(unsigned& target) {
    return [&target](const std::string& value) {
        const std::smatch parts =
            match(value, "([0-9]{1,2})\\.([0-9])", "a capability such as 10.0 is expected");
        target = static_cast<unsigned>(10 * std::stoul(parts[1]) + std::stoul(parts[2]));
    };
}

Reader races(Races& target) {
    return [&target](const std::string& value) {
        int level = 0;
        number(level, 0, 2)(value);
        target = static_cast<Races>(level);
    };
}

Reader truncate(bool& target) {
    return [&target](const std::string& value) {
        if (value != "truncate") throw std::invalid_argument("`truncate` is all there is");
        target = true;
    };
}

Reader injection(std::optional<Injection>& target) {
    return [&target](const std::string& value) {
        const std::smatch parts = match(value, "(cu[A-Za-z0-9]+):([1-9][0-9]{0,9}):([1-9][0-9]{0,2})(!?)",
                                        "FUNCTION:NTH:CODE is expected, as in cuLaunchKernel:7:719");
        target = Injection{parts[1], std::stoull(parts[2]), std::stoi(parts[3]), parts[4].length() > 0};
    };
}

Reader edit(std::optional<PtxEdit>& target) {
    return [&target](const std::string& value) { target = PtxEdit::parse(value); };
}

// The log has opened it by itself, to be there before all settings.
void log_reader(const std::string&) {
    if (!log_is_open()) throw std::invalid_argument("the file cannot be opened");
}

std::map<std::string, Reader> readers(Settings& settings) {
    return {
        {"CC", capability(settings.capability)},
        {"DEVICES", number(settings.num_devices, 0, 64)},
        {"MEM_MIB", mebibytes(settings.memory_bytes)},
        {"CONTEXT_MIB", mebibytes(settings.context_bytes)},
        {"PINNED_MIB",
         [&settings](const std::string& value) { mebibytes(settings.pinned_bytes.emplace())(value); }},
        {"SHARED", number(settings.shared_bytes, 49152, 1 << 20)},
        {"SMS", number(settings.num_multiprocessors, 1, 1024)},
        {"DRIVER", number(settings.driver_version, 11000, 99990)},
        {"NAME", string(settings.name)},
        {"EAGER", flag(settings.eager)},
        {"OTHERS_FIRST", flag(settings.others_first)},
        {"SEED", number(settings.seed, 0, uint64_t{1} << 53)},
        {"THREADS", number(settings.num_threads, 1, 256)},
        {"RACES", races(settings.races)},
        {"MMA", truncate(settings.truncate_mma)},
        {"SPLIT_FMA", flag(settings.split_fma)},
        {"FAIL", injection(settings.injection)},
        {"PTX_EDIT", edit(settings.ptx_edit)},
        {"REPORT", string(settings.report)},
        {"LOG", log_reader},
    };
}

Settings read_environment() {
    Settings settings;
    const std::map<std::string, Reader> known = readers(settings);
    const std::string prefix = "SOFTGPU_";
    for (char** variable = environ; *variable; variable++) {
        const std::string entry = *variable;
        if (entry.compare(0, prefix.size(), prefix) != 0) continue;
        const size_t equals = entry.find('=');
        const auto reader = known.find(entry.substr(prefix.size(), equals - prefix.size()));
        if (reader == known.end()) {
            settings.errors.push_back(concat(entry.substr(0, equals), " is not a variable of softgpu"));
            continue;
        }
        try {
            reader->second(entry.substr(equals + 1));
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

}  // namespace softgpu
