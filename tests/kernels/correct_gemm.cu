// Matrix products for the tests of the emulator: on the CUDA cores, on the tensor cores, through a pipeline of
// asynchronous copies. Never compiled for the GPU.
#include "mma.cuh"

// c = a b; a gemm_m x gemm_k, b gemm_k x gemm_n, all row-major.
struct GemmArgs { const void* a; const void* b; void* c; uint32_t gemm_m; uint32_t gemm_n; uint32_t gemm_k; uint32_t unused; };

// 64x64 tile of c a block, 256 threads of 4x4 elements, 16 of gemm_k a stage.
KERNEL(correct_gemm_f32, GemmArgs, 256) {
    constexpr int kTile = 64, kDepth = 16;
    __shared__ __align__(16) float tile_a[kDepth][kTile + 4];
    __shared__ __align__(16) float tile_b[kDepth][kTile];
    const float* a = static_cast<const float*>(args.a);
    const float* b = static_cast<const float*>(args.b);
    float* c = static_cast<float*>(args.c);
    const uint32_t thread = threadIdx.x, row0 = blockIdx.y * kTile, column0 = blockIdx.x * kTile;
    const uint32_t y = thread / 16 * 4, x = thread % 16 * 4;
    float sums[4][4] = {};
    for (uint32_t k0 = 0; k0 < args.gemm_k; k0 += kDepth) {
        for (uint32_t i = thread; i < kTile * kDepth; i += 256) {
            const uint32_t row = row0 + i / kDepth, k = k0 + i % kDepth;
            tile_a[i % kDepth][i / kDepth] = row < args.gemm_m && k < args.gemm_k ? a[row * args.gemm_k + k] : 0.0f;
        }
        for (uint32_t i = thread; i < kTile * kDepth; i += 256) {
            const uint32_t k = k0 + i / kTile, column = column0 + i % kTile;
            tile_b[i / kTile][i % kTile] = k < args.gemm_k && column < args.gemm_n ? b[k * args.gemm_n + column] : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < kDepth; k++) {
            const auto part_a = load_vec<4>(&tile_a[k][y]), part_b = load_vec<4>(&tile_b[k][x]);
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) sums[i][j] += part_a[i] * part_b[j];
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            const uint32_t row = row0 + y + i, column = column0 + x + j;
            if (row < args.gemm_m && column < args.gemm_n) c[row * args.gemm_n + column] = sums[i][j];
        }
    }
}

// One warp a 16x8 tile: bf16 operands, f32 result. gemm_m a multiple of 16, gemm_n of 8, gemm_k of 32. Two stages of 32
// of gemm_k, filled by asynchronous copies one stage ahead.
KERNEL(correct_gemm_mma, GemmArgs, 32) {
    constexpr int kDepth = 32;
    bf16(*tile_a)[16][kDepth + 8] = dynamic_shared<bf16[16][kDepth + 8]>();
    bf16(*tile_b)[kDepth][8] = reinterpret_cast<bf16(*)[kDepth][8]>(tile_a + 2);
    const bf16* a = static_cast<const bf16*>(args.a) + blockIdx.y * 16 * args.gemm_k;
    const bf16* b = static_cast<const bf16*>(args.b) + blockIdx.x * 8;
    const uint32_t lane = threadIdx.x, num_stages = args.gemm_k / kDepth;
    auto fetch = [&](uint32_t stage) {
        for (uint32_t i = lane; i < 16 * kDepth / 8; i += 32) {
            const uint32_t row = i / (kDepth / 8), k = i % (kDepth / 8) * 8;
            cp_async_16(&tile_a[stage % 2][row][k], a + row * args.gemm_k + stage * kDepth + k, stage < num_stages);
        }
        cp_async_16(&tile_b[stage % 2][lane][0], b + (stage * kDepth + lane) * args.gemm_n, stage < num_stages);
        cp_async_commit();
    };
    float sums[4] = {};
    fetch(0);
    for (uint32_t stage = 0; stage < num_stages; stage++) {
        fetch(stage + 1);
        cp_async_wait<1>();
        __syncthreads();
        for (int k = 0; k < kDepth; k += 16) {
            uint32_t fragment_a[4], fragment_b[2];
            ldmatrix_x4(fragment_a, &tile_a[stage % 2][lane % 16][k + lane / 16 * 8]);
            ldmatrix_x2_trans(fragment_b, &tile_b[stage % 2][k + lane % 16][0]);
            mma_m16n8k16_bf16(sums, fragment_a, fragment_b, sums);
        }
        __syncthreads();
    }
    float* c = static_cast<float*>(args.c);
    for (int i = 0; i < 4; i++) {
        const uint32_t row = blockIdx.y * 16 + lane / 4 + i / 2 * 8, column = blockIdx.x * 8 + lane % 4 * 2 + i % 2;
        c[row * args.gemm_n + column] = sums[i];
    }
}

struct LdmatrixArgs { const void* x; void* y; };

// y[variant][lane][register]: what each form of ldmatrix gives for the 32x8 elements of x; variants x4, x4 transposed,
// x2, x2 transposed.
KERNEL(correct_ldmatrix, LdmatrixArgs, 32) {
    __shared__ __align__(16) uint16_t rows[32][8];
    const uint32_t lane = threadIdx.x;
    store_vec(rows[lane], load_vec<8>(static_cast<const uint16_t*>(args.x) + 8 * lane));
    __syncthreads();
    uint32_t* y = static_cast<uint32_t*>(args.y) + 4 * lane;
    uint32_t four[4], two[2];
    ldmatrix_x4(four, rows[lane]);
    for (int i = 0; i < 4; i++) y[i] = four[i];
    ldmatrix_x4_trans(four, rows[lane]);
    for (int i = 0; i < 4; i++) y[128 + i] = four[i];
    ldmatrix_x2(two, rows[lane % 16]);
    for (int i = 0; i < 2; i++) y[256 + i] = two[i];
    ldmatrix_x2_trans(two, rows[lane % 16]);
    for (int i = 0; i < 2; i++) y[384 + i] = two[i];
}
