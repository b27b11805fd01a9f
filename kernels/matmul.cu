// Products of many rows with a weight matrix: prefill.
//
// Backend::matmul: out = x . weight^T; x [rows, inner], weight [out_width, inner], out [rows, out_width].
#include "product_tile.cuh"

// bf16 on tensor cores, inner a multiple of 8. Grid [ceil(out_width / 128), ceil(rows / 128)], block [256].
template <class Out>
DEVICE void matmul_mma(const bf16* x, const bf16* weight, int rows, int inner, int out_width, Out* out) {
    __shared__ __align__(16) Stage<128> stages[TILE_STAGES];
    int first_row = blockIdx.y * 128, first_column = blockIdx.x * 128;
    product_tile<128>(
        stages, [=](int row) { return first_row + row < rows ? x + (u64)(first_row + row) * inner : nullptr; },
        weight + (u64)first_column * inner, out_width - first_column, inner,
        [=](int row, int column, float first, float second) {
            if (first_row + row < rows)
                store_two(out + (u64)(first_row + row) * out_width, first_column + column, out_width, first, second);
        });
}

#define MATMUL_MMA(Out)                                                                                        \
    ENTRY __launch_bounds__(256)                                                                               \
        matmul_mma_##Out(const bf16* x, const bf16* weight, int rows, int inner, int out_width, Out* out) {    \
        matmul_mma<Out>(x, weight, rows, inner, out_width, out);                                               \
    }
MATMUL_MMA(bf16)
MATMUL_MMA(f32)

// Activations f32, weights as stored, in f32 throughout, any widths. Grid [ceil(out_width / 64), ceil(rows / 64)],
// block [256]. Each thread has four rows and four columns of a tile of 64 by 64, sixteen apart.
template <class W>
DEVICE void matmul(const float* x, const W* weight, int rows, int inner, int out_width, float* out) {
    constexpr int STEP = 16;
    __shared__ float x_tile[STEP][65], weight_tile[STEP][65];
    int across = threadIdx.x % 16, down = threadIdx.x / 16, first_row = blockIdx.y * 64, first_column = blockIdx.x * 64;
    float sums[4][4] = {{0.0f}};
    for (int base = 0; base < inner; base += STEP) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = base + across, row = first_row + down + 16 * i, column = first_column + down + 16 * i;
            x_tile[across][down + 16 * i] = at < inner && row < rows ? x[(u64)row * inner + at] : 0.0f;
            weight_tile[across][down + 16 * i] =
                at < inner && column < out_width ? to_float(weight[(u64)column * inner + at]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = x_tile[k][down + 16 * i], b[i] = weight_tile[k][across + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = first_row + down + 16 * i, column = first_column + across + 16 * j;
            if (row < rows && column < out_width) out[(u64)row * out_width + column] = sums[i][j];
        }
}

#define MATMUL(W)                                                                                              \
    ENTRY __launch_bounds__(256)                                                                               \
        matmul_f32_##W(const float* x, const W* weight, int rows, int inner, int out_width, float* out) {      \
        matmul<W>(x, weight, rows, inner, out_width, out);                                                     \
    }
MATMUL(f32)
MATMUL(bf16)
