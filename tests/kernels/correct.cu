// Kernels without a fault, for the tests of the emulator: it must find nothing in them, and they must compute what they
// say, in every order of threads. Never compiled for the GPU.
#include "mma.cuh"

struct ReduceArgs { const void* x; void* y; uint64_t num_elems; };

// y[block] = sum of the elements of x that fall to the block, in f32.
KERNEL(correct_reduce, ReduceArgs, 128) {
    const float* x = static_cast<const float*>(args.x);
    float sum = 0.0f;
    for (uint64_t i = grid_thread(); i < args.num_elems; i += grid_threads()) sum += x[i];
    sum = block_sum<128>(sum);
    if (threadIdx.x == 0) static_cast<float*>(args.y)[blockIdx.x] = sum;
}

// Counts elements above zero with atomics: first in shared memory, then one addition a block.
KERNEL(correct_count, ReduceArgs, 96) {
    __shared__ uint32_t count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const float* x = static_cast<const float*>(args.x);
    for (uint64_t i = grid_thread(); i < args.num_elems; i += grid_threads()) {
        if (x[i] > 0.0f) atomicAdd(&count, 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(static_cast<uint32_t*>(args.y), count);
}

// Inclusive sums within each warp by shuffles; the two halves of a warp work apart, each under its own mask.
KERNEL(correct_scan, ReduceArgs, 64) {
    const int lane = threadIdx.x % 32;
    float value = static_cast<const float*>(args.x)[grid_thread()];
    const uint32_t mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    for (int distance = 1; distance < 16; distance *= 2) {
        const float other = __shfl_up_sync(mask, value, distance, 16);
        if (lane % 16 >= distance) value += other;
    }
    static_cast<float*>(args.y)[grid_thread()] = value;
}

// Lane numbers through every shuffle and vote: y[lane][0..7].
KERNEL(correct_warp_calls, ReduceArgs, 32) {
    int* y = static_cast<int*>(args.y) + 8 * threadIdx.x;
    const int lane = threadIdx.x;
    y[0] = __shfl_sync(0xffffffffu, lane, 5, 8);
    y[1] = __shfl_up_sync(0xffffffffu, lane, 3, 16);
    y[2] = __shfl_down_sync(0xffffffffu, lane, 3, 16);
    y[3] = __shfl_xor_sync(0xffffffffu, lane, 9);
    y[4] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
    y[5] = __any_sync(0xffffffffu, lane == 31);
    y[6] = __all_sync(0xffffffffu, lane != 31);
    y[7] = static_cast<int>(__shfl_xor_sync(0xffffffffu, 1e10 * lane, 1) / 1e10);
}

// Lane 0 tells its warp through shared memory, ordered by __syncwarp alone.
KERNEL(correct_syncwarp, ReduceArgs, 64) {
    __shared__ float values[2];
    const uint32_t warp = threadIdx.x / 32;
    for (uint32_t i = 0; i < 3; i++) {
        if (threadIdx.x % 32 == i) values[warp] = static_cast<const float*>(args.x)[warp] + i;
        __syncwarp();
        static_cast<float*>(args.y)[i * 64 + threadIdx.x] = values[warp];
        __syncwarp();
    }
}

struct TransposeArgs { const void* x; void* y; uint32_t rows; uint32_t columns; };

// y = x transposed through a padded tile of shared memory, 32x8 threads for 32x32 elements.
template <class T>
static __device__ void transpose(const TransposeArgs& args) {
    __shared__ T tile[32][33];
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    for (uint32_t i = threadIdx.y; i < 32; i += 8) {
        const uint32_t row = blockIdx.y * 32 + i, column = blockIdx.x * 32 + threadIdx.x;
        if (row < args.rows && column < args.columns) tile[i][threadIdx.x] = x[row * args.columns + column];
    }
    __syncthreads();
    for (uint32_t i = threadIdx.y; i < 32; i += 8) {
        const uint32_t row = blockIdx.x * 32 + i, column = blockIdx.y * 32 + threadIdx.x;
        if (row < args.columns && column < args.rows) y[row * args.rows + column] = tile[threadIdx.x][i];
    }
}
KERNEL(correct_transpose_f32, TransposeArgs, 256) { transpose<float>(args); }
KERNEL(correct_transpose_bf16, TransposeArgs, 256) { transpose<bf16>(args); }

struct ConvertArgs { const void* x; void* y; uint64_t num_elems; };

KERNEL(correct_to_bf16, ConvertArgs, 128) {
    const float* x = static_cast<const float*>(args.x);
    for (uint64_t i = grid_thread(); i < args.num_elems; i += grid_threads()) static_cast<bf16*>(args.y)[i] = bf16(x[i]);
}

// y[4 i ..] = Philox of counter (i, 2, 3, 4) under key (5, 6).
KERNEL(correct_philox, ConvertArgs, 32) {
    const uint4 words = philox4x32_10(make_uint4(threadIdx.x, 2, 3, 4), make_uint2(5, 6));
    static_cast<uint4*>(args.y)[threadIdx.x] = words;
}
