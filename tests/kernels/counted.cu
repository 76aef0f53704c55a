// Kernels whose accesses can be counted by hand, for the tests of the counter. Never compiled for the GPU.
#include "wgmma.cuh"

struct CountedArgs { const void* x; void* y; };

// Neighbouring lanes, neighbouring words: 4 sectors a request.
KERNEL(counted_rows, CountedArgs, 64) {
    static_cast<float*>(args.y)[grid_thread()] = static_cast<const float*>(args.x)[grid_thread()];
}

// Neighbouring lanes 256 bytes apart: a sector each. Only the first 5 lanes of a warp store.
KERNEL(counted_columns, CountedArgs, 32) {
    const float value = static_cast<const float*>(args.x)[64 * threadIdx.x];
    if (threadIdx.x < 5) static_cast<float*>(args.y)[threadIdx.x] = value;
}

// The same 128 bytes again and again: L1 has them after the first time.
KERNEL(counted_again, CountedArgs, 32) {
    float sum = 0.0f;
    for (int i = 0; i < 10; i++) sum += static_cast<const volatile float*>(args.x)[threadIdx.x];
    static_cast<float*>(args.y)[threadIdx.x] = sum;
}

// A square of shared memory, written by rows and read by columns, from one bank; then one word for all lanes.
KERNEL(counted_banks, CountedArgs, 32) {
    float* square = dynamic_shared<float>();
    for (int row = 0; row < 32; row++) square[32 * row + threadIdx.x] = 1.0f;
    __syncthreads();
    float sum = square[32 * threadIdx.x];
    sum += square[7];
    static_cast<float*>(args.y)[threadIdx.x] = sum;
}

// 512 bytes by asynchronous copies, every other lane zeros, then one product: rows of 16 bytes, one after another.
KERNEL(counted_product, CountedArgs, 32) {
    unsigned char* tile = dynamic_shared<unsigned char>();
    const unsigned char* x = static_cast<const unsigned char*>(args.x);
    cp_async_16(tile + 16 * threadIdx.x, x + 16 * threadIdx.x, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t a[4];
    ldmatrix_x4(a, tile + 16 * threadIdx.x);
    const uint32_t b[2] = {a[0], a[1]};
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16_bf16(d, a, b, d);
    static_cast<float4*>(args.y)[threadIdx.x] = make_float4(d[0], d[1], d[2], d[3]);
}

// One product of a warp group, 64x128x16, of whatever shared memory holds.
KERNEL(counted_group_product, CountedArgs, 128) {
    float d[64] = {};
    wgmma_fence();
    wgmma_k16_bf16<false, false>(d, wgmma_operand(0, 0), wgmma_operand(64 * 128, 0));
    wgmma_commit();
    wgmma_wait<0>();
    static_cast<float*>(args.y)[threadIdx.x] = d[0];
}

// Copies through L1 of 16 bytes a lane: a line of 128 bytes, what follows half of it, and the first line again.
KERNEL(counted_cached_copies, CountedArgs, 8) {
    unsigned char* tile = dynamic_shared<unsigned char>();
    const unsigned char* x = static_cast<const unsigned char*>(args.x);
    const int firsts[3] = {0, 64, 0};
    for (const int first : firsts) {
        cp_async_16_cached(tile + 16 * threadIdx.x, x + first + 16 * threadIdx.x);
        cp_async_commit();
        cp_async_wait<0>();
    }
}
