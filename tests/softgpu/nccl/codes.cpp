#include "codes.hpp"

namespace nccl_double {

const char* words_of(int code) {
    static const char* const words[kNumCodes] = {
        "all is well",
        "the CUDA driver refused a call",
        "the system refused a call",
        "a fault within the library",
        "an argument that is not allowed",
        "a call that is not allowed here",
        "another rank failed or is gone",
        "not over yet",
        "it took too long",
    };
    return code >= 0 && code < kNumCodes ? words[code] : "no result of this library";
}

const DataType* data_type(int number) {
    static const DataType int8 = {"ncclInt8", 1}, uint8 = {"ncclUint8", 1};
    static const DataType float32 = {"ncclFloat32", 4}, bfloat16 = {"ncclBfloat16", 2};
    switch (number) {
        case 0: return &int8;
        case 1: return &uint8;
        case kFloat32: return &float32;
        case 9: return &bfloat16;
        default: return nullptr;
    }
}

}  // namespace nccl_double
