// Mixture of experts for many rows, on tensor cores: prefill.
#include "product_tile.cuh"

// Backend::expert_matmul, bf16, inner a multiple of 8: out[pair] = weight[expert] . x[pair / pairs_per_input], with
// pairs_per_input top_k where the input is a row's and 1 where it is the pair's own; out [pairs, out_width].
// Grid [ceil(out_width / 128), tiles], block [256]; `tiles` as moe_tiles leaves them, `order` as moe_group does.
ENTRY __launch_bounds__(256) moe_matmul(const bf16* x, const bf16* weight, const u32* order, const int4* tiles,
                                        int pairs_per_input, int inner, int out_width, bf16* out) {
    __shared__ __align__(16) Stage<64> stages[TILE_STAGES];
    int4 tile = tiles[blockIdx.y];
    if (tile.z == 0) return;
    int first_column = blockIdx.x * 128;
    product_tile<64>(
        stages,
        [=](int row) { return row < tile.z ? x + (u64)(order[tile.y + row] / pairs_per_input) * inner : nullptr; },
        weight + ((u64)tile.x * out_width + first_column) * inner, out_width - first_column, inner,
        [=](int row, int column, float first, float second) {
            if (row < tile.z)
                store_two(out + (u64)order[tile.y + row] * out_width, first_column + column, out_width, first, second);
        });
}
