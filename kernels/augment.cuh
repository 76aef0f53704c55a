// What happens to a sample, as the kernels read it that sample photos: augment and auto_augment.
#pragma once

#include "common.cuh"

// What happens to one sample: a row of `params`.
FOR_RUST struct SampleParams {
    float inverse_x[3], inverse_y[3];
    float colour[3][4];
    float noise_probability;
    uint32_t noise_key[2], noise_epoch, noise_sample;
    int32_t erased_left, erased_top, erased_right, erased_bottom;
    int32_t partner;
    float weight;
    int32_t left, top, right, bottom;
};

// Where (x, y) goes along the axis of `row`; without contraction, bit for bit as on the CPU.
static __device__ __forceinline__ float place(const float (&row)[3], float x, float y) {
    return __fadd_rn(__fadd_rn(__fmul_rn(row[0], x), __fmul_rn(row[1], y)), row[2]);
}
