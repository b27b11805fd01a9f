// Elementwise operations between products.
#include "common.cuh"

// Backend::swiglu. Grid [ceil(width / 2048), rows], block [256].
// out = silu(gate) * up; gate_up [rows, gate | up], out [rows, width].
template <class T>
DEVICE void swiglu(const T* gate_up, int width, T* out) {
    const T* gate = gate_up + (u64)blockIdx.y * 2 * width;
    int at = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= width) return;
    float g[8], u[8];
    load_chunk(gate, at, width, g);
    load_chunk(gate + width, at, width, u);
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] = silu(g[i]) * u[i];
    store_chunk(out + (u64)blockIdx.y * width, at, width, g);
}

// Backend::add_gated. Grid [ceil(width / 2048), rows], block [256].
// out[row] += sigmoid(gate[row]) * x[row]; gate f32 [rows], x and out [rows, width].
template <class T>
DEVICE void add_gated(const float* gate, const T* x, int width, T* out) {
    u64 row = (u64)blockIdx.y * width;
    int at = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= width) return;
    float open = 1.0f / (1.0f + expf(-gate[blockIdx.y])), v[8], sum[8];
    load_chunk(x + row, at, width, v);
    load_chunk(out + row, at, width, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += open * v[i];
    store_chunk(out + row, at, width, sum);
}

#define ACTIVATION_ENTRIES(T)                                                                      \
    ENTRY __launch_bounds__(256) swiglu_##T(const T* gate_up, int width, T* out) {                 \
        swiglu<T>(gate_up, width, out);                                                            \
    }                                                                                              \
    ENTRY __launch_bounds__(256) add_gated_##T(const float* gate, const T* x, int width, T* out) { \
        add_gated<T>(gate, x, width, out);                                                         \
    }
ACTIVATION_ENTRIES(f32)
ACTIVATION_ENTRIES(bf16)
