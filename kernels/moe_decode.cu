// Mixture of experts for few rows, bound by reading the chosen experts' weights: decode.
//
// Weights of all experts of a layer lie one after the other, [experts, out, inner]. Those for gate and up are stacked,
// gate first: out = 2 * width. For one or a few rows the gather kernels work on every pair (row, choice) by itself and
// need no grouping; for more rows the grouped ones read each chosen expert once for all pairs that chose it.
#include "streamed_product.cuh"

// Sixteen rows of a weight matrix times the inputs of up to 8 TILES pairs, over eight warps that share the inner
// dimension. pair_of(i) is the i-th pair of `count`, whose input is row pair / pairs_per_input of x. Sums go to
// write(row, pair, its sum, the sum of the row eight further), for rows 0..ROWS of the sixteen; the last only if ROWS is 8.
template <int TILES, int ROWS, class PairOf, class Write>
DEVICE void expert_product(const bf16* x, int pairs_per_input, const bf16* upper, const bf16* lower, int inner,
                           int count, PairOf pair_of, Write write) {
    constexpr int COLUMNS = 8 * TILES;
    __shared__ float partial[8][16][COLUMNS + 1];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4, begin, end;
    inner_share(warp, 8, inner, begin, end);
    for (int first = 0; first < count; first += COLUMNS) {
        const bf16* columns[TILES];
        float sums[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            columns[t] = x + (u64)(pair_of(min(first + 8 * t + group, count - 1)) / pairs_per_input) * inner;
#pragma unroll
            for (int i = 0; i < 4; i++) sums[t][i] = 0.0f;
        }
        stream_product<TILES>(upper, lower, columns, begin, end, sums);
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) partial[warp][group + 8 * (i / 2)][8 * t + 2 * quad + i % 2] = sums[t][i];
        __syncthreads();
        for (int item = threadIdx.x; item < ROWS * COLUMNS; item += 256) {
            int row = item % ROWS, column = item / ROWS;
            if (first + column < count) {
                float sum = 0.0f, further = 0.0f;
#pragma unroll
                for (int part = 0; part < 8; part++) {
                    sum += partial[part][row][column];
                    if (ROWS == 8) further += partial[part][row + 8][column];
                }
                write(row, pair_of(first + column), sum, further);
            }
        }
        __syncthreads();
    }
}

// Backend::expert_matmul and swiglu in one: out[pair] = silu(gate . x) * (up . x) of the pair's expert, x [rows,
// inner], out [pairs, width]. Eight gate rows and the eight up rows that belong to them make a tile of sixteen.
template <int TILES, class PairOf>
DEVICE void expert_gate_up(const bf16* x, const bf16* weight, u32 expert, int inner, int width, int top_k, int count,
                           PairOf pair_of, bf16* out) {
    int first = blockIdx.x * 8, group = threadIdx.x % 32 / 4, row = min(first + group, width - 1);
    const bf16* gate = weight + ((u64)expert * 2 * width + row) * inner;
    expert_product<TILES, 8>(x, top_k, gate, gate + (u64)width * inner, inner, count, pair_of,
                             [&](int i, u32 pair, float g, float u) {
                                 if (first + i < width) out[(u64)pair * width + first + i] = from_float<bf16>(silu(g) * u);
                             });
}

// Grid [ceil(width / 8), pairs], block [256]; inner a multiple of 8.
ENTRY __launch_bounds__(256) moe_gate_up_gather(const bf16* x, const bf16* weight, const u32* chosen, int inner,
                                                int width, int top_k, bf16* out) {
    u32 own = blockIdx.y;
    expert_gate_up<1>(x, weight, chosen[own], inner, width, top_k, 1, [=](int) { return own; }, out);
}

// Grid [ceil(width / 8), length of `active`], block [256]; inner a multiple of 8. `order`, `starts` and `active` as
// moe_group leaves them.
ENTRY __launch_bounds__(256) moe_gate_up_grouped(const bf16* x, const bf16* weight, const u32* order,
                                                 const u32* starts, const u32* active, int experts, int inner,
                                                 int width, int top_k, bf16* out) {
    u32 expert = active[blockIdx.y];
    if ((int)expert >= experts) return;
    u32 first = starts[expert];
    expert_gate_up<2>(x, weight, expert, inner, width, top_k, starts[expert + 1] - first,
                      [=](int i) { return order[first + i]; }, out);
}

// Backend::expert_matmul and combine_experts in one: out[row] = sum over choices, in their order, of weight * (down .
// x[pair]); x [pairs, inner], out [rows, width]. Grid [ceil(width / 16), rows], block [256]; inner a multiple of 8,
// top_k <= 32. A warp takes a choice.
ENTRY __launch_bounds__(256) moe_down_gather(const bf16* x, const bf16* weight, const u32* chosen,
                                             const float* shares, int inner, int width, int top_k, bf16* out) {
    __shared__ float products[32][16];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4, first = blockIdx.x * 16;
    u64 row = blockIdx.y;
    for (int choice = warp; choice < top_k; choice += 8) {
        u64 pair = row * top_k + choice;
        const bf16* matrix = weight + (u64)chosen[pair] * width * inner;
        const bf16* columns[1] = {x + pair * inner};
        float sums[1][4] = {{0.0f, 0.0f, 0.0f, 0.0f}};
        stream_product<1>(matrix + (u64)min(first + group, width - 1) * inner,
                          matrix + (u64)min(first + group + 8, width - 1) * inner, columns, 0, inner, sums);
        if (quad == 0) products[choice][group] = sums[0][0], products[choice][group + 8] = sums[0][2];
    }
    __syncthreads();
    int o = first + threadIdx.x;
    if (threadIdx.x >= 16 || o >= width) return;
    float sum = 0.0f;
    for (int choice = 0; choice < top_k; choice++) sum += shares[row * top_k + choice] * products[choice][threadIdx.x];
    out[row * width + o] = from_float<bf16>(sum);
}

// Backend::expert_matmul for inputs by pair: out[pair] = down . x[pair], [pairs, width]; moe_combine follows.
// Grid [ceil(width / 16), length of `active`], block [256]; inner a multiple of 8.
ENTRY __launch_bounds__(256) moe_down_grouped(const bf16* x, const bf16* weight, const u32* order, const u32* starts,
                                              const u32* active, int experts, int inner, int width, bf16* out) {
    u32 expert = active[blockIdx.y];
    if ((int)expert >= experts) return;
    int start = starts[expert], first = blockIdx.x * 16, group = threadIdx.x % 32 / 4;
    const bf16* matrix = weight + (u64)expert * width * inner;
    expert_product<2, 16>(x, 1, matrix + (u64)min(first + group, width - 1) * inner,
                          matrix + (u64)min(first + group + 8, width - 1) * inner, inner, starts[expert + 1] - start,
                          [=](int i) { return order[start + i]; },
                          [&](int i, u32 pair, float sum, float) {
                              if (first + i < width) out[(u64)pair * width + first + i] = from_float<bf16>(sum);
                          });
}

// Backend::expert_matmul for any types and widths, in f32: out[pair] = weight[chosen[pair]] . x[pair /
// pairs_per_input], pairs_per_input being top_k where the input is a row's and 1 where it is the pair's own.
// Grid [ceil(width / 8), pairs], block [256]. One weight row a warp.
template <class X, class W>
DEVICE void expert_matvec(const X* x, const W* weight, const u32* chosen, int pairs_per_input, int inner, int width,
                          X* out) {
    int lane = threadIdx.x % 32, o = blockIdx.x * 8 + threadIdx.x / 32;
    u64 pair = blockIdx.y;
    if (o >= width) return;
    weight += ((u64)chosen[pair] * width + o) * inner, x += pair / pairs_per_input * inner;
    float sum = 0.0f;
    for (int at = lane * 8; at < inner; at += 256) {
        float w[8], v[8];
        load_chunk(weight, at, inner, w);
        load_chunk(x, at, inner, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += v[i] * w[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) out[pair * width + o] = from_float<X>(sum);
}

#define EXPERT_MATVEC(X, W)                                                                                       \
    ENTRY __launch_bounds__(256) expert_matvec_##X##_##W(const X* x, const W* weight, const u32* chosen,          \
                                                         int pairs_per_input, int inner, int width, X* out) {     \
        expert_matvec<X, W>(x, weight, chosen, pairs_per_input, inner, width, out);                               \
    }
EXPERT_MATVEC(f32, f32)
EXPERT_MATVEC(f32, bf16)
EXPERT_MATVEC(bf16, bf16)
