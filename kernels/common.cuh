// What every kernel file includes: the form of a kernel, on the GPU and on the host.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KERNEL_ARGS(Args, ...)
#define KERNEL(symbol, Args, threads) \
    extern "C" __global__ void __launch_bounds__(threads) symbol(const __grid_constant__ Args args)
#else
#include "host.h"
#endif
