// A tile of a product of many rows on tensor cores: ROWS rows of x times 128 rows of the weights, 256 threads.
//
// Both operands are copied ahead to shared memory, 32 inner elements of each row at a time, three steps deep. A row of
// a step is 64 bytes, and a lane reads sixteen of them at once: two rows fill the banks, so nothing needs padding.
// As in streamed_product.cuh, what a lane reads serves two fragments, the inner order being the same on both sides.
#pragma once
#include "common.cuh"

constexpr int TILE_COLUMNS = 128, TILE_INNER = 32, TILE_STAGES = 3;

// One step of both operands.
template <int ROWS>
struct Stage {
    bf16 x[ROWS * TILE_INNER], weight[TILE_COLUMNS * TILE_INNER];
};

// row_of(i) is the input of row i of the tile, or null; `weight` points to the tile's first weight row, of which
// `columns` exist; inner is a multiple of 8. write(row, column, first, second) takes two sums at a time, column even.
// The warps stand two by four over the tile.
template <int ROWS, class RowOf, class Write>
DEVICE void product_tile(Stage<ROWS> (&stages)[TILE_STAGES], RowOf row_of, const bf16* weight, int columns, int inner,
                         Write write) {
    constexpr int COPIES = ROWS / 64, HIGH = ROWS / 32, WIDE = 4;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    int first_row = warp / 4 * (ROWS / 2), first_column = warp % 4 * 32;
    // This thread copies elements 8 c..8 c + 8 of rows r, r + 64, ..
    int r = threadIdx.x / 4, c = threadIdx.x % 4 * 8;
    const bf16* x_from[COPIES];
    const bf16* weight_from[2];
#pragma unroll
    for (int i = 0; i < COPIES; i++) x_from[i] = row_of(r + 64 * i);
#pragma unroll
    for (int i = 0; i < 2; i++) weight_from[i] = r + 64 * i < columns ? weight + (u64)(r + 64 * i) * inner : nullptr;
    auto fetch = [&](int step) {
        Stage<ROWS>& stage = stages[step % TILE_STAGES];
        int at = step * TILE_INNER + c;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            bool there = x_from[i] && at < inner;
            copy_async(&stage.x[(r + 64 * i) * TILE_INNER + c], there ? x_from[i] + at : weight, there);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            bool there = weight_from[i] && at < inner;
            copy_async(&stage.weight[(r + 64 * i) * TILE_INNER + c], there ? weight_from[i] + at : weight, there);
        }
    };

    float sums[HIGH][WIDE][4];
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
    int steps = (inner + TILE_INNER - 1) / TILE_INNER;
#pragma unroll
    for (int step = 0; step < TILE_STAGES - 1; step++) {
        if (step < steps) fetch(step);
        copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_wait<TILE_STAGES - 2>();
        // Everybody's copies for this step have landed, and nobody reads the stage that is fetched next any more.
        __syncthreads();
        if (step + TILE_STAGES - 1 < steps) fetch(step + TILE_STAGES - 1);
        copy_commit();
        const Stage<ROWS>& stage = stages[step % TILE_STAGES];
        uint4 column[WIDE];
#pragma unroll
        for (int n = 0; n < WIDE; n++)
            column[n] = *(const uint4*)&stage.weight[(first_column + 8 * n + group) * TILE_INNER + 8 * quad];
#pragma unroll
        for (int m = 0; m < HIGH; m++) {
            uint4 u = *(const uint4*)&stage.x[(first_row + 16 * m + group) * TILE_INNER + 8 * quad];
            uint4 l = *(const uint4*)&stage.x[(first_row + 16 * m + group + 8) * TILE_INNER + 8 * quad];
#pragma unroll
            for (int n = 0; n < WIDE; n++) {
                mma_bf16(sums[m][n], u.x, l.x, u.y, l.y, column[n].x, column[n].y);
                mma_bf16(sums[m][n], u.z, l.z, u.w, l.w, column[n].z, column[n].w);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                write(first_row + 16 * m + group + 8 * half, first_column + 8 * n + 2 * quad, sums[m][n][2 * half],
                      sums[m][n][2 * half + 1]);
}

// Two neighbouring results of a row of `width`, of which those past its end are dropped.
DEVICE void store_two(bf16* row, int at, int width, float first, float second) {
    if (width % 2 == 0) {
        if (at < width) *(u32*)(row + at) = pack_bf16(first, second);
    } else {
        if (at < width) row[at] = from_float<bf16>(first);
        if (at + 1 < width) row[at + 1] = from_float<bf16>(second);
    }
}
DEVICE void store_two(float* row, int at, int width, float first, float second) {
    if (at < width) row[at] = first;
    if (at + 1 < width) row[at + 1] = second;
}
