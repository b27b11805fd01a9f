// Products of few rows with a weight matrix, bound by reading the weights: decode.
//
// Backend::matmul: out = x . weight^T; x [rows, inner], weight [out_width, inner], out [rows, out_width].
#include "streamed_product.cuh"

// Weights and activations bf16, inner a multiple of 8, on tensor cores. Grid [ceil(out_width / 16), ceil(rows / (8 TILES))], block [256].
// The eight warps of a block share the inner dimension of sixteen weight rows; their sums are added in warp order.
template <int TILES, class Out>
DEVICE void matvec_mma(const bf16* x, const bf16* weight, int rows, int inner, int out_width, Out* out) {
    constexpr int COLUMNS = 8 * TILES;
    __shared__ float partial[8][16][COLUMNS + 1];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    int first_out = blockIdx.x * 16, first_row = blockIdx.y * COLUMNS;
    // Rows past the end are read as the last one and not written.
    const bf16* upper = weight + (u64)min(first_out + group, out_width - 1) * inner;
    const bf16* lower = weight + (u64)min(first_out + group + 8, out_width - 1) * inner;
    const bf16* columns[TILES];
    float sums[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        columns[t] = x + (u64)min(first_row + 8 * t + group, rows - 1) * inner;
#pragma unroll
        for (int i = 0; i < 4; i++) sums[t][i] = 0.0f;
    }
    int begin, end;
    inner_share(warp, 8, inner, begin, end);
    stream_product<TILES>(upper, lower, columns, begin, end, sums);
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) partial[warp][group + 8 * (i / 2)][8 * t + 2 * quad + i % 2] = sums[t][i];
    __syncthreads();
    for (int item = threadIdx.x; item < 16 * COLUMNS; item += 256) {
        int o = first_out + item % 16, row = first_row + item / 16;
        float sum = 0.0f;
#pragma unroll
        for (int part = 0; part < 8; part++) sum += partial[part][item % 16][item / 16];
        if (o < out_width && row < rows) out[(u64)row * out_width + o] = from_float<Out>(sum);
    }
}

#define MATVEC_MMA(Out, COLUMNS)                                                                                   \
    ENTRY __launch_bounds__(256) matvec_mma_##Out##_##COLUMNS(const bf16* x, const bf16* weight, int rows,         \
                                                              int inner, int out_width, Out* out) {                \
        matvec_mma<COLUMNS / 8, Out>(x, weight, rows, inner, out_width, out);                                      \
    }
MATVEC_MMA(bf16, 8)
MATVEC_MMA(bf16, 16)
MATVEC_MMA(bf16, 32)
MATVEC_MMA(f32, 8)
MATVEC_MMA(f32, 16)
MATVEC_MMA(f32, 32)

// Any types and widths, in f32 throughout. Grid [ceil(out_width / 8), ceil(rows / 4)], block [256].
// One weight row a warp, times four rows of x.
template <class X, class W, class Out>
DEVICE void matvec(const X* x, const W* weight, int rows, int inner, int out_width, Out* out) {
    int lane = threadIdx.x % 32, o = blockIdx.x * 8 + threadIdx.x / 32, first = blockIdx.y * 4;
    if (o >= out_width) return;
    weight += (u64)o * inner;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int at = lane * 8; at < inner; at += 256) {
        float w[8], v[8];
        load_chunk(weight, at, inner, w);
#pragma unroll
        for (int row = 0; row < 4; row++) {
            if (first + row >= rows) break;
            load_chunk(x + (u64)(first + row) * inner, at, inner, v);
#pragma unroll
            for (int i = 0; i < 8; i++) sums[row] += v[i] * w[i];
        }
    }
#pragma unroll
    for (int row = 0; row < 4; row++) {
        float sum = warp_sum(sums[row]);
        if (lane == 0 && first + row < rows) out[(u64)(first + row) * out_width + o] = from_float<Out>(sum);
    }
}

#define MATVEC(X, W, Out)                                                                              \
    ENTRY __launch_bounds__(256) matvec_##X##_##W##_##Out(const X* x, const W* weight, int rows,       \
                                                          int inner, int out_width, Out* out) {        \
        matvec<X, W, Out>(x, weight, rows, inner, out_width, out);                                     \
    }
MATVEC(f32, f32, f32)
MATVEC(f32, bf16, f32)
MATVEC(bf16, bf16, bf16)
MATVEC(bf16, bf16, f32)
