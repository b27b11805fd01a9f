// Attention of many queries of a sequence over the paged cache, on tensor cores: prefill.
//
// Backend::attention, bf16, width 64 or 128, at most 128 query heads to a key-value head. Shapes as in
// attention_decode.cu. Grid [tiles, kv_heads], block [256].
//
// A tile is consecutive rows of one sequence: 128 / (heads / kv_heads) of them at most. Its queries and their heads
// that share a key-value head are 128 queries, sixteen to a warp; the eight warps go through the keys and values
// together, 32 tokens at a time, the next ones on their way while they work. tiles[t] = {first row, rows, index of the
// sequence's blocks in block_table, tokens that the first row sees}; each further row sees one more. A tile of no
// rows is skipped.
#include "attention_tile.cuh"

constexpr int TOKENS = 32;
// Distances of rows in shared memory, such that the eight lanes that read at once meet different banks.
constexpr int KEY_PAD = 32, VALUE_PAD = 8;

template <int WIDTH>
DEVICE void attention_prefill(const bf16* qkv, const bf16* keys, const bf16* values, const u32* block_table,
                              const int4* tiles, int heads, bf16* out) {
    constexpr int KEY_STRIDE = WIDTH + KEY_PAD, VALUE_STRIDE = WIDTH + VALUE_PAD, WORDS = WIDTH / 8;
    __shared__ __align__(16) bf16 key_tile[2][TOKENS * KEY_STRIDE];
    __shared__ __align__(16) bf16 value_tile[2][TOKENS * VALUE_STRIDE];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    int kv_head = blockIdx.y, kv_heads = gridDim.y, sharing = heads / kv_heads;
    int4 tile = tiles[blockIdx.x];
    if (tile.y == 0) return;
    block_table += tile.z;
    // Query m of the tile is head m % sharing of row m / sharing.
    int upper = warp * 16 + group, lower = upper + 8, queries_here = tile.y * sharing;
    const bf16* base = qkv + (u64)tile.x * (heads + 2 * kv_heads) * WIDTH;
    u64 row_stride = (u64)(heads + 2 * kv_heads) * WIDTH;
    Queries<WIDTH> queries;
    queries.load(upper < queries_here ? base + upper / sharing * row_stride + (kv_head * sharing + upper % sharing) * WIDTH : nullptr,
                 lower < queries_here ? base + lower / sharing * row_stride + (kv_head * sharing + lower % sharing) * WIDTH : nullptr);
    int upper_seen = upper < queries_here ? tile.w + upper / sharing : 0;
    int lower_seen = lower < queries_here ? tile.w + lower / sharing : 0;
    int seen = tile.w + tile.y - 1, steps = (seen + TOKENS - 1) / TOKENS;

    auto fetch = [&](int step) {
        for (int item = threadIdx.x; item < TOKENS * WORDS; item += 256) {
            int token = item / WORDS, at = item % WORDS * 8, position = step * TOKENS + token;
            bool there = position < seen;
            u64 block = there ? (u64)block_table[position / BLOCK_TOKENS] * kv_heads + kv_head : 0;
            u64 from = (block * BLOCK_TOKENS + position % BLOCK_TOKENS) * WIDTH + at;
            copy_async(&key_tile[step % 2][token * KEY_STRIDE + at], keys + (there ? from : 0), there);
            copy_async(&value_tile[step % 2][token * VALUE_STRIDE + at], values + (there ? from : 0), there);
        }
    };

    Gathered<WIDTH> gathered;
    gathered.clear();
    float scale = rsqrtf((float)WIDTH) * 1.4426950408889634f;
    fetch(0);
    copy_commit();
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) fetch(step + 1);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
#pragma unroll
        for (int half = 0; half < TOKENS / 16; half++) {
            int first = step * TOKENS + 16 * half;
            attend<WIDTH>(queries, gathered, &key_tile[step % 2][16 * half * KEY_STRIDE], KEY_STRIDE,
                          &value_tile[step % 2][16 * half * VALUE_STRIDE], VALUE_STRIDE, 16, upper_seen - first,
                          lower_seen - first, scale);
        }
        __syncthreads();
    }
    gathered.finish();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int m = half == 0 ? upper : lower;
        if (m >= queries_here) continue;
        bf16* to = out + ((u64)(tile.x + m / sharing) * heads + kv_head * sharing + m % sharing) * WIDTH;
#pragma unroll
        for (int j = 0; j < WIDTH / 64; j++)
#pragma unroll
            for (int part = 0; part < 2; part++) {
                float v[8];
                gathered.eight(half, j, part, 1.0f / gathered.total[half], v);
                store8(to + 64 * j + 16 * quad + 8 * part, v);
            }
    }
}

#define ATTENTION_PREFILL(WIDTH)                                                                                  \
    ENTRY __launch_bounds__(256)                                                                                  \
        attention_prefill_bf16_##WIDTH(const bf16* qkv, const bf16* keys, const bf16* values,                     \
                                       const u32* block_table, const int4* tiles, int heads, bf16* out) {         \
        attention_prefill<WIDTH>(qkv, keys, values, block_table, tiles, heads, out);                              \
    }
ATTENTION_PREFILL(64)
ATTENTION_PREFILL(128)
