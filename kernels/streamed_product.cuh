// The inner loop of products that are bound by reading weights: one warp, sixteen weight rows, up to 8 * TILES inputs.
//
// Weights go from memory straight into the registers that mma.m16n8k16 takes them from. A fragment holds four
// elements of a row in each lane, at inner indices 2q, 2q+1, 2q+8 and 2q+9 (q the quad). The product does not care
// which inner index stands at which place as long as both operands agree, so a lane takes eight consecutive elements
// in one 16-byte load and feeds them to two fragments. The inner width must be a multiple of 8.
#pragma once
#include "common.cuh"

// Both steps of sixteen inner indices that a fragment of eight elements a lane holds.
DEVICE void mma_32(float (&sums)[4], uint4 upper, uint4 lower, uint4 column) {
    mma_bf16(sums, upper.x, lower.x, upper.y, lower.y, column.x, column.y);
    mma_bf16(sums, upper.z, lower.z, upper.w, lower.w, column.z, column.w);
}

// Adds the products over inner indices begin..end, multiples of 8, to `sums`.
//
// `upper` and `lower` are this lane's weight rows, group and group + 8 of the sixteen; `columns[t]` is the input of
// column 8 t + group. Rows and columns that do not exist may stand for any that do: what comes of them is not used.
// sums[t] holds rows group (0, 1) and group + 8 (2, 3) of columns 8 t + 2 quad (0, 2) and 8 t + 2 quad + 1 (1, 3).
template <int TILES>
DEVICE void stream_product(const bf16* upper, const bf16* lower, const bf16* const (&columns)[TILES], int begin,
                           int end, float (&sums)[TILES][4]) {
    constexpr int STEPS = 4;
    int base = begin, offset = 8 * (threadIdx.x % 4);
    upper += offset, lower += offset;
    // No load here depends on a condition, so that the compiler may start all of them before the first is used.
    for (; base + 32 * STEPS <= end; base += 32 * STEPS) {
        uint4 high[STEPS], low[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            high[step] = load_streaming(upper + base + 32 * step);
            low[step] = load_streaming(lower + base + 32 * step);
        }
        // Keeps the compiler from moving a load down to where it is used.
        __syncwarp();
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int t = 0; t < TILES; t++)
                mma_32(sums[t], high[step], low[step], *(const uint4*)(columns[t] + base + offset + 32 * step));
    }
    for (; base < end; base += 32) {
        const uint4 nothing = make_uint4(0, 0, 0, 0);
        bool there = base + offset < end;
        uint4 high = there ? load_streaming(upper + base) : nothing;
        uint4 low = there ? load_streaming(lower + base) : nothing;
#pragma unroll
        for (int t = 0; t < TILES; t++)
            mma_32(sums[t], high, low, there ? *(const uint4*)(columns[t] + base + offset) : nothing);
    }
}

// The share of the inner dimension of one of `parts` warps: begin (a multiple of 32) and end.
DEVICE void inner_share(int part, int parts, int inner, int& begin, int& end) {
    int share = (inner + 32 * parts - 1) / (32 * parts) * 32;
    begin = min(part * share, inner);
    end = min(begin + share, inner);
}
