// Numbers of the library's interface, as far as the double knows them.
#pragma once

#include <cstddef>

namespace nccl_double {

enum Code : int {
    kSuccess = 0,
    kUnhandledCudaError = 1,
    kSystemError = 2,
    kInvalidArgument = 4,
    kInvalidUsage = 5,
    kRemoteError = 6,
};
constexpr int kNumCodes = 9;

const char* words_of(int code);

struct DataType {
    const char* name;
    size_t num_bytes;
};

constexpr int kFloat32 = 7;

// Nothing for a type that is not covered.
const DataType* data_type(int number);

constexpr int kSum = 0;

}  // namespace nccl_double
