// The words of CUDA that kernels use, on the host.
#pragma once

#define __device__
#define KERNEL_ARGS(Args, ...)
#define KERNEL(symbol, Args, threads)                                                                  \
    static void symbol##_body(const Args& args);                                                       \
    extern "C" void symbol(const void* arguments) { symbol##_body(*static_cast<const Args*>(arguments)); } \
    static void symbol##_body(const Args& args)

struct Index3 {
    unsigned x, y, z;
};
inline thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;
