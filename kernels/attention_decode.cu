// Attention of single queries over the paged cache, the context split over blocks: decode.
//
// Backend::attention. qkv [rows, queries | keys | values], of which only the queries are read; out [rows, heads *
// width]; keys and values [blocks, kv_heads, BLOCK_TOKENS, width]. Row r sees the first visible[r] tokens of its
// sequence, whose cache blocks are block_table[first_block[r]..]; rows that see none (padding) come out as zeros.
// Query head h reads key-value head h / (heads / kv_heads).
//
// The tokens of a row are shared out evenly over gridDim.x splits, in whole cache blocks, so that a captured graph
// holds for any context. With one split a block writes `out`; with more, each writes what attention_combine puts
// together: `parts` f32 [rows, heads, splits, width] (sums of values) and `weights` f32 [rows, heads, splits, 2]
// (the largest score, in units of log2, and the sum of the weights).
#include "attention_tile.cuh"

constexpr float LOG2_E = 1.4426950408889634f;

// The cache blocks begin..end of a split.
DEVICE void split_share(int visible, int& begin, int& end) {
    int blocks = (visible + BLOCK_TOKENS - 1) / BLOCK_TOKENS, share = (blocks + gridDim.x - 1) / gridDim.x;
    begin = min((int)blockIdx.x * share, blocks);
    end = min(begin + share, blocks);
}

// Any types, widths up to 512, in f32. Grid [splits, heads, rows], block [128], dynamic shared memory 4 * (width + 128 + 8)
// bytes, rounded up to 16. Each thread scores a token at a time; then the threads share the head's elements. Serves
// prefill too, a row of it being a row.
template <class T>
DEVICE void attention_any(const T* qkv, const T* keys, const T* values, const u32* block_table, const u32* first_block,
                          const u32* visible, int kv_heads, int width, T* out, float* parts, float* weights) {
    DYNAMIC_SHARED(bytes);
    float* query = (float*)bytes;
    float* scores = query + width;
    float* scratch = scores + 128;
    int head = blockIdx.y, heads = gridDim.y, row = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int kv_head = head / (heads / kv_heads), seen = visible[row], begin, end;
    split_share(seen, begin, end);
    block_table += first_block[row];
    qkv += ((u64)row * (heads + 2 * kv_heads) + head) * width;
    float scale = rsqrtf((float)width) * LOG2_E;
    for (int i = threadIdx.x; i < width; i += 128) query[i] = to_float(qkv[i]) * scale;
    u64 item = ((u64)row * heads + head) * gridDim.x + blockIdx.x;
    parts += item * width, weights += item * 2;
    out += ((u64)row * heads + head) * width;
    // The sums of the elements that this thread owns: every 128th.
    float peak = minus_infinity(), total = 0.0f, sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    __syncthreads();
    for (int first = begin * BLOCK_TOKENS; first < min(end * BLOCK_TOKENS, seen); first += 128) {
        int count = min(min(end * BLOCK_TOKENS, seen) - first, 128), token = first + threadIdx.x;
        float score = minus_infinity();
        if ((int)threadIdx.x < count) {
            u64 block = (u64)block_table[token / BLOCK_TOKENS] * kv_heads + kv_head;
            const T* key = keys + (block * BLOCK_TOKENS + token % BLOCK_TOKENS) * width;
            score = 0.0f;
            for (int at = 0; at < width; at += 8) {
                float k[8];
                load_chunk(key, at, width, k);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    if (at + i < width) score += query[at + i] * k[i];
            }
        }
        float largest = warp_max(score);
        if (lane == 0) scratch[warp] = largest;
        __syncthreads();
        float next = peak;
#pragma unroll
        for (int i = 0; i < 4; i++) next = fmaxf(next, scratch[i]);
        float weight = weight_of(score, next), fade = weight_of(peak, next);
        scores[threadIdx.x] = weight;
        float sum = warp_sum(weight);
        if (lane == 0) scratch[4 + warp] = sum;
        __syncthreads();
        total = total * fade + scratch[4] + scratch[5] + scratch[6] + scratch[7];
        peak = next;
#pragma unroll
        for (int slice = 0; slice < 4; slice++) {
            int i = slice * 128 + threadIdx.x;
            if (i >= width) break;
            float gathered = sums[slice] * fade;
            for (int k = 0; k < count; k++) {
                u64 block = (u64)block_table[(first + k) / BLOCK_TOKENS] * kv_heads + kv_head;
                gathered += scores[k] * to_float(values[(block * BLOCK_TOKENS + (first + k) % BLOCK_TOKENS) * width + i]);
            }
            sums[slice] = gathered;
        }
        __syncthreads();
    }
#pragma unroll
    for (int slice = 0; slice < 4; slice++) {
        int i = slice * 128 + threadIdx.x;
        if (i >= width) break;
        if (gridDim.x == 1) out[i] = from_float<T>(total > 0.0f ? sums[slice] / total : 0.0f);
        else parts[i] = sums[slice];
    }
    if (gridDim.x > 1 && threadIdx.x == 0) weights[0] = peak, weights[1] = total;
}

#define ATTENTION_ANY(T)                                                                                            \
    ENTRY __launch_bounds__(128)                                                                                    \
        attention_any_##T(const T* qkv, const T* keys, const T* values, const u32* block_table,                     \
                          const u32* first_block, const u32* visible, int kv_heads, int width, T* out, float* parts,\
                          float* weights) {                                                                         \
        attention_any<T>(qkv, keys, values, block_table, first_block, visible, kv_heads, width, out, parts,         \
                         weights);                                                                                  \
    }
ATTENTION_ANY(f32)
ATTENTION_ANY(bf16)

// bf16, width 64 or 128, at most 16 query heads to a key-value head, on tensor cores. Grid [splits, kv_heads, rows],
// block [128]. The query heads of a key-value head are the queries of a tile, so keys and values are read once; the
// four warps take cache blocks in turn and are put together at the end.
template <int WIDTH>
DEVICE void attention_decode(const bf16* qkv, const bf16* keys, const bf16* values, const u32* block_table,
                             const u32* first_block, const u32* visible, int heads, bf16* out, float* parts,
                             float* weights) {
    __shared__ __align__(16) float sums[4][16][WIDTH + 4];
    __shared__ float peaks[4][16], totals[4][16];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    int kv_head = blockIdx.y, kv_heads = gridDim.y, row = blockIdx.z, sharing = heads / kv_heads;
    int seen = visible[row], begin, end;
    split_share(seen, begin, end);
    block_table += first_block[row];
    const bf16* query = qkv + ((u64)row * (heads + 2 * kv_heads) + kv_head * sharing) * WIDTH;
    Queries<WIDTH> queries;
    queries.load(group < sharing ? query + group * WIDTH : nullptr,
                 group + 8 < sharing ? query + (group + 8) * WIDTH : nullptr);
    Gathered<WIDTH> gathered;
    gathered.clear();
    float scale = rsqrtf((float)WIDTH) * LOG2_E;
    for (int block = begin + warp; block < end; block += 4) {
        u64 at = ((u64)block_table[block] * kv_heads + kv_head) * BLOCK_TOKENS * WIDTH;
        int filled = min(seen - block * BLOCK_TOKENS, BLOCK_TOKENS);
        attend<WIDTH>(queries, gathered, keys + at, WIDTH, values + at, WIDTH, filled, filled, filled, scale);
    }
    gathered.finish();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int h = group + 8 * half;
#pragma unroll
        for (int j = 0; j < WIDTH / 64; j++)
#pragma unroll
            for (int part = 0; part < 2; part++) {
                float v[8];
                gathered.eight(half, j, part, 1.0f, v);
                store8(&sums[warp][h][64 * j + 16 * quad + 8 * part], v);
            }
        if (quad == 0) peaks[warp][h] = gathered.peak[half], totals[warp][h] = gathered.total[half];
    }
    __syncthreads();
    for (int item = threadIdx.x; item < sharing * WIDTH; item += 128) {
        int h = item / WIDTH, i = item % WIDTH;
        float peak = fmaxf(fmaxf(peaks[0][h], peaks[1][h]), fmaxf(peaks[2][h], peaks[3][h])), sum = 0.0f, total = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++) {
            float fade = weight_of(peaks[w][h], peak);
            sum += sums[w][h][i] * fade;
            total += totals[w][h] * fade;
        }
        u64 head = (u64)row * heads + kv_head * sharing + h;
        if (gridDim.x == 1) {
            out[head * WIDTH + i] = from_float<bf16>(total > 0.0f ? sum / total : 0.0f);
        } else {
            u64 place = head * gridDim.x + blockIdx.x;
            parts[place * WIDTH + i] = sum;
            if (i == 0) weights[place * 2] = peak, weights[place * 2 + 1] = total;
        }
    }
}

#define ATTENTION_DECODE(WIDTH)                                                                                     \
    ENTRY __launch_bounds__(128)                                                                                    \
        attention_decode_bf16_##WIDTH(const bf16* qkv, const bf16* keys, const bf16* values,                        \
                                      const u32* block_table, const u32* first_block, const u32* visible,           \
                                      int heads, bf16* out, float* parts, float* weights) {                         \
        attention_decode<WIDTH>(qkv, keys, values, block_table, first_block, visible, heads, out, parts, weights);  \
    }
ATTENTION_DECODE(64)
ATTENTION_DECODE(128)

// Puts the splits together, in their order. Grid [heads, rows], block [128].
template <class T>
DEVICE void attention_combine(const float* parts, const float* weights, int splits, int width, T* out) {
    u64 head = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    parts += head * splits * width, weights += head * splits * 2, out += head * width;
    float peak = minus_infinity(), total = 0.0f;
    for (int split = 0; split < splits; split++) peak = fmaxf(peak, weights[2 * split]);
    for (int split = 0; split < splits; split++) total += weights[2 * split + 1] * weight_of(weights[2 * split], peak);
    for (int i = threadIdx.x; i < width; i += 128) {
        float sum = 0.0f;
        for (int split = 0; split < splits; split++)
            sum += parts[(u64)split * width + i] * weight_of(weights[2 * split], peak);
        out[i] = from_float<T>(total > 0.0f ? sum / total : 0.0f);
    }
}

#define ATTENTION_COMBINE(T)                                                                                     \
    ENTRY __launch_bounds__(128)                                                                                 \
        attention_combine_##T(const float* parts, const float* weights, int splits, int width, T* out) {         \
        attention_combine<T>(parts, weights, splits, width, out);                                                \
    }
ATTENTION_COMBINE(f32)
ATTENTION_COMBINE(bf16)
