// Kernels with one fault each, for the tests of the emulator. Never compiled for the GPU.
#include "mma.cuh"

struct PlantedArgs { const void* x; void* y; uint64_t num_elems; };

// Reverses a block's elements through shared memory without the barrier that belongs between.
KERNEL(planted_missing_barrier, PlantedArgs, 64) {
    __shared__ float tile[64];
    tile[threadIdx.x] = static_cast<const float*>(args.x)[grid_thread()];
    static_cast<float*>(args.y)[grid_thread()] = tile[63 - threadIdx.x];
}

// The same through memory that no array bounds: only the record of accesses can tell.
KERNEL(planted_missing_barrier_dynamic, PlantedArgs, 64) {
    float* tile = dynamic_shared<float>();
    tile[threadIdx.x] = 0.0f;
    __syncthreads();
    tile[threadIdx.x] = static_cast<const float*>(args.x)[grid_thread()];
    static_cast<float*>(args.y)[grid_thread()] = tile[63 - threadIdx.x];
}

KERNEL(planted_read_past_end, PlantedArgs, 64) {
    const float* x = static_cast<const float*>(args.x);
    static_cast<float*>(args.y)[grid_thread()] = x[grid_thread() + 1];
}

KERNEL(planted_read_before_start, PlantedArgs, 64) {
    const float* x = static_cast<const float*>(args.x);
    static_cast<float*>(args.y)[grid_thread()] = load_vec<4>(x + 4 * static_cast<int>(threadIdx.x) - 4)[0];
}

KERNEL(planted_write_past_end, PlantedArgs, 64) {
    const uint64_t i = grid_thread();
    if (i <= args.num_elems) static_cast<float*>(args.y)[i] = 1.0f;
}

KERNEL(planted_write_to_input, PlantedArgs, 64) {
    float* x = const_cast<float*>(static_cast<const float*>(args.x));
    x[grid_thread()] = 0.0f;
}

// Reads a result that nothing has written.
KERNEL(planted_unwritten_output, PlantedArgs, 64) {
    static_cast<float*>(args.y)[grid_thread()] += 1.0f;
}

KERNEL(planted_uninitialised_shared, PlantedArgs, 64) {
    __shared__ float tile[64];
    if (threadIdx.x != 17) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    static_cast<float*>(args.y)[grid_thread()] = tile[threadIdx.x];
}

KERNEL(planted_index_outside_tile, PlantedArgs, 64) {
    __shared__ float tile[32][33];
    const int i = static_cast<int>(threadIdx.x);
    tile[i / 2][i] = 1.0f;
    __syncthreads();
    static_cast<float*>(args.y)[grid_thread()] = tile[i / 2][i];
}

KERNEL(planted_past_dynamic_shared, PlantedArgs, 64) {
    dynamic_shared<float>()[threadIdx.x + 1] = 1.0f;
}

KERNEL(planted_divergent_barrier, PlantedArgs, 64) {
    if (threadIdx.x < 40) __syncthreads();
    static_cast<float*>(args.y)[grid_thread()] = 1.0f;
}

// Both halves of the block reach a barrier, but not the same one.
KERNEL(planted_two_barriers, PlantedArgs, 64) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    static_cast<float*>(args.y)[grid_thread()] = 1.0f;
}

KERNEL(planted_mismatched_mask, PlantedArgs, 32) {
    const uint32_t mask = threadIdx.x < 16 ? 0xffffffffu : 0x0000ffffu << 16;
    static_cast<float*>(args.y)[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);
}

KERNEL(planted_lane_not_in_mask, PlantedArgs, 32) {
    static_cast<float*>(args.y)[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1);
}

KERNEL(planted_shuffle_from_outside_mask, PlantedArgs, 32) {
    if (threadIdx.x < 16) static_cast<float*>(args.y)[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);
}

KERNEL(planted_lanes_missing_from_vote, PlantedArgs, 64) {
    if (threadIdx.x % 32 < 30) static_cast<float*>(args.y)[threadIdx.x] = __any_sync(0xffffffffu, 1) ? 1.0f : 0.0f;
}

KERNEL(planted_misaligned_vector, PlantedArgs, 32) {
    const auto v = load_vec<4>(static_cast<const float*>(args.x) + threadIdx.x);
    static_cast<float*>(args.y)[threadIdx.x] = v[0];
}

// Two blocks write the same element.
KERNEL(planted_blocks_overlap, PlantedArgs, 32) {
    static_cast<float*>(args.y)[threadIdx.x + 31 * blockIdx.x] = 1.0f;
}

// A thread reads its neighbour's result of the same launch.
KERNEL(planted_global_race, PlantedArgs, 64) {
    float* y = static_cast<float*>(args.y);
    y[threadIdx.x] = 1.0f;
    y[64 + threadIdx.x] = y[threadIdx.x ^ 1];
}

KERNEL(planted_copy_not_waited_for, PlantedArgs, 32) {
    __shared__ __align__(16) float tile[32][4];
    cp_async_16(tile[threadIdx.x], static_cast<const float*>(args.x) + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<1>();
    static_cast<float*>(args.y)[threadIdx.x] = tile[threadIdx.x][0];
}

// Waits for its own copies, reads those of others.
KERNEL(planted_copy_without_barrier, PlantedArgs, 32) {
    __shared__ __align__(16) float tile[32][4];
    tile[threadIdx.x][0] = 0.0f;
    __syncthreads();
    cp_async_16(tile[threadIdx.x], static_cast<const float*>(args.x) + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    static_cast<float*>(args.y)[threadIdx.x] = tile[31 - threadIdx.x][0];
}

KERNEL(planted_unrounded_tf32, PlantedArgs, 32) {
    const uint32_t third = __float_as_uint(1.0f / 3.0f), a[4] = {third, third, third, third}, b[2] = {to_tf32(third), third};
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k8_tf32(d, a, b, d);
    static_cast<float*>(args.y)[threadIdx.x] = d[0];
}

// Lanes read what lane 0 wrote, with a shuffle, which orders nothing, for a __syncwarp.
KERNEL(planted_missing_syncwarp, PlantedArgs, 32) {
    __shared__ float value;
    if (threadIdx.x == 0) value = 1.0f;
    const float zero = __shfl_sync(0xffffffffu, 0.0f, 0);
    static_cast<float*>(args.y)[threadIdx.x] = value + zero;
}

KERNEL(planted_wild_pointer, PlantedArgs, 32) {
    const float* table = reinterpret_cast<const float*>(static_cast<uintptr_t>(64));
    static_cast<float*>(args.y)[threadIdx.x] = table[threadIdx.x];
}

// The sum is the largest int in the last thread but one.
KERNEL(planted_signed_overflow, PlantedArgs, 32) {
    const int32_t most = 0x7fffffff - 31 + static_cast<int32_t>(threadIdx.x);
    static_cast<float*>(args.y)[threadIdx.x] = static_cast<float>(most + static_cast<int32_t>(args.num_elems / 32));
}

KERNEL(planted_product_overflow, PlantedArgs, 32) {
    const int32_t pixels = static_cast<int32_t>(args.num_elems) * 2048;
    static_cast<float*>(args.y)[threadIdx.x] = static_cast<float>(pixels * 32768);
}

KERNEL(planted_division_by_zero, PlantedArgs, 32) {
    const uint32_t channels = static_cast<uint32_t>(args.num_elems) - 32;
    static_cast<float*>(args.y)[threadIdx.x] = static_cast<float>((threadIdx.x + 7) % channels);
}

KERNEL(planted_wide_shift, PlantedArgs, 32) {
    static_cast<float*>(args.y)[threadIdx.x] = static_cast<float>(1u << (threadIdx.x + 1));
}
