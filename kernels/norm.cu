// RMS normalisation of rows, alone or after adding to the residual stream.
#include "common.cuh"

// Backend::rms_norm. Grid [rows], block [256].
// out[row] = x[row] / sqrt(mean(x[row]^2) + eps) * gain; x and out [rows, width], gain f32 [width].
template <class T>
DEVICE void rms_norm(const T* x, const float* gain, float eps, int width, T* out) {
    __shared__ float scratch[32];
    x += (u64)blockIdx.x * width, out += (u64)blockIdx.x * width;
    float squares = 0.0f, v[8], g[8];
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        load_chunk(x, at, width, v);
#pragma unroll
        for (int i = 0; i < 8; i++) squares += v[i] * v[i];
    }
    float scale = rsqrtf(block_sum(squares, scratch) / width + eps);
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        load_chunk(x, at, width, v);
        load_chunk(gain, at, width, g);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= scale * g[i];
        store_chunk(out, at, width, v);
    }
}

// Backend::add_rms_norm. Grid [rows], block [256].
// residual += delta, rounded to the type it is kept in; out = rms_norm(residual).
template <class T>
DEVICE void add_rms_norm(T* residual, const T* delta, const float* gain, float eps, int width, T* out) {
    __shared__ float scratch[32];
    u64 row = (u64)blockIdx.x * width;
    residual += row, delta += row, out += row;
    float squares = 0.0f, v[8], w[8];
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        load_chunk(residual, at, width, v);
        load_chunk(delta, at, width, w);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = to_float(from_float<T>(v[i] + w[i]));
            squares += v[i] * v[i];
        }
        store_chunk(residual, at, width, v);
    }
    float scale = rsqrtf(block_sum(squares, scratch) / width + eps);
    // Each thread reads again only what it wrote itself.
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        load_chunk(residual, at, width, v);
        load_chunk(gain, at, width, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= scale * w[i];
        store_chunk(out, at, width, v);
    }
}

#define NORM_ENTRIES(T)                                                                                       \
    ENTRY __launch_bounds__(256)                                                                              \
        rms_norm_##T(const T* x, const float* gain, float eps, int width, T* out) {                           \
        rms_norm<T>(x, gain, eps, width, out);                                                                \
    }                                                                                                         \
    ENTRY __launch_bounds__(256)                                                                              \
        add_rms_norm_##T(T* residual, const T* delta, const float* gain, float eps, int width, T* out) {      \
        add_rms_norm<T>(residual, delta, gain, eps, width, out);                                              \
    }
NORM_ENTRIES(f32)
NORM_ENTRIES(bf16)
