// The gradient of what a batch norm normalised, of neighbouring channels, once gamma and beta have theirs.
#pragma once

#include "channels.cuh"

// What it is computed from: f32 for each channel.
struct InputGradientOperands {
    const float *gamma, *mean, *rstd, *dgamma, *dbeta;
};

// dx = gamma*rstd * (dz - dbeta/M - (x - mean)*rstd * dgamma/M), M the number of rows.
template <int kWidth>
struct InputGradient {
    float mean[kWidth], scale[kWidth], slope[kWidth], mean_dz[kWidth];

    __device__ __forceinline__ InputGradient(const InputGradientOperands& of, uint32_t channel, uint32_t rows) {
        float gamma[kWidth], rstd[kWidth];
        load_floats(mean, of.mean + channel);
        load_floats(gamma, of.gamma + channel);
        load_floats(rstd, of.rstd + channel);
        load_floats(slope, of.dgamma + channel);
        load_floats(mean_dz, of.dbeta + channel);
        const float per_row = 1.0f / static_cast<float>(rows);
#pragma unroll
        for (int i = 0; i < kWidth; i++) {
            scale[i] = gamma[i] * rstd[i];
            slope[i] *= rstd[i] * per_row;
            mean_dz[i] *= per_row;
        }
    }

    __device__ __forceinline__ float operator()(int i, float dz, float x) const {
        return scale[i] * (dz - mean_dz[i] - (x - mean[i]) * slope[i]);
    }
};
