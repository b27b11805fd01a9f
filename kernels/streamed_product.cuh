// The inner loop of products that are bound by reading weights: one warp, sixteen weight rows, up to 8 * TILES inputs.
//
// Weights go from memory straight into the registers that mma.m16n8k16 takes them from. A fragment holds four
// elements of a row in each lane, at inner indices 2q, 2q+1, 2q+8 and 2q+9 (q the quad). The product does not care
// which inner index stands at which place as long as both operands agree, so a lane takes eight consecutive elements
// in one 16-byte load and feeds them to two fragments. The inner width must be a multiple of 8.
#pragma once
#include "common.cuh"

// Eight elements at..at+8 of a row, zeros from `end` on.
DEVICE uint4 load_weights(const bf16* row, int at, int end) {
    return at < end ? load_streaming(row + at) : make_uint4(0, 0, 0, 0);
}

// Both steps of sixteen inner indices that a fragment of eight elements a lane holds.
DEVICE void mma_32(float (&sums)[4], uint4 upper, uint4 lower, uint4 column) {
    mma_bf16(sums, upper.x, lower.x, upper.y, lower.y, column.x, column.y);
    mma_bf16(sums, upper.z, lower.z, upper.w, lower.w, column.z, column.w);
}

// Adds the products over inner indices begin..end to `sums`.
//
// `upper` and `lower` are this lane's weight rows, group and group + 8 of the sixteen; `columns[t]` is the input of
// column 8 t + group, or null where there is none. Both are multiples of 8. Then
// sums[t] holds rows group (0, 1) and group + 8 (2, 3) of columns 8 t + 2 quad (0, 2) and 8 t + 2 quad + 1 (1, 3).
template <int TILES>
DEVICE void stream_product(const bf16* upper, const bf16* lower, const bf16* const (&columns)[TILES], int begin,
                           int end, float (&sums)[TILES][4]) {
    constexpr int STEPS = 4;
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    int quad = threadIdx.x % 4;
    for (int base = begin; base < end; base += 32 * STEPS) {
        uint4 high[STEPS], low[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int at = base + 32 * step + 8 * quad;
            high[step] = load_weights(upper, at, end);
            low[step] = load_weights(lower, at, end);
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int at = base + 32 * step + 8 * quad;
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                uint4 column = columns[t] && at < end ? *(const uint4*)(columns[t] + at) : nothing;
                mma_32(sums[t], high[step], low[step], column);
            }
        }
    }
}

// The share of the inner dimension of one of `parts` warps: begin (a multiple of 32) and end.
DEVICE void inner_share(int part, int parts, int inner, int& begin, int& end) {
    int share = (inner + 32 * parts - 1) / (32 * parts) * 32;
    begin = min(part * share, inner);
    end = min(begin + share, inner);
}
