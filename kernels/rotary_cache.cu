// Rotary embedding: the table of a step's angles, and q/k normalisation, rotation and the write into the paged cache.
#include "common.cuh"

// Backend::rotary. Grid [ceil(rows * pairs / 256)], block [256].
// table[row] = [cos(a_0), .., sin(a_0), ..], f32 [rows, 2 pairs], a_i = positions[axis(i)][row] * frequencies[i];
// positions f32 [3, stride]. Pair i belongs to axis i % 3 while that is 1 or 2 and i < 3 * sections[axis], else to 0.
ENTRY __launch_bounds__(256) rotary_table(const float* positions, int stride, const float* frequencies, int height,
                                          int width, int rows, int pairs, float* table) {
    int item = blockIdx.x * 256 + threadIdx.x;
    if (item >= rows * pairs) return;
    int row = item / pairs, pair = item % pairs, axis = pair % 3;
    if (axis == 1 && pair >= 3 * height) axis = 0;
    if (axis == 2 && pair >= 3 * width) axis = 0;
    float angle = positions[axis * stride + row] * frequencies[pair];
    table += (u64)row * 2 * pairs;
    table[pair] = cosf(angle);
    table[pairs + pair] = sinf(angle);
}

// Backend::norm_rotate_store. Grid [rows, ceil((heads + 2 kv_heads) / 4)], block [128]: one warp a head.
//
// qkv [rows, queries | keys | values] of heads, kv_heads and kv_heads heads of `width` (even). Queries and keys are
// RMS-normalised with their gain, f32 [width], and turned by the table; queries go back in place, keys and values to
// the row's slot of the cache, [blocks, kv_heads, BLOCK_TOKENS, width]. A row whose slot is NO_SLOT stores nothing.
template <class T>
DEVICE void norm_rotate_store(T* qkv, const float* query_gain, const float* key_gain, float eps, const float* table,
                              const u32* slots, int heads, int kv_heads, int width, T* keys, T* values) {
    int lane = threadIdx.x % 32, head = blockIdx.y * 4 + threadIdx.x / 32, row = blockIdx.x, pairs = width / 2;
    if (head >= heads + 2 * kv_heads) return;
    T* x = qkv + ((u64)row * (heads + 2 * kv_heads) + head) * width;
    u32 slot = slots[row];
    bool is_query = head < heads, is_value = head >= heads + kv_heads;
    if (!is_query && slot == NO_SLOT) return;
    T* to = x;
    if (!is_query) {
        int kv_head = (head - heads) % kv_heads;
        u64 place = ((u64)(slot / BLOCK_TOKENS) * kv_heads + kv_head) * BLOCK_TOKENS + slot % BLOCK_TOKENS;
        to = (is_value ? values : keys) + place * width;
    }
    if (is_value) {
        for (int i = lane; i < width; i += 32) to[i] = x[i];
        return;
    }
    float squares = 0.0f;
    for (int i = lane; i < width; i += 32) squares += to_float(x[i]) * to_float(x[i]);
    float scale = rsqrtf(warp_sum(squares) / width + eps);
    const float* gain = is_query ? query_gain : key_gain;
    table += (u64)row * width;
    // The shuffles above have brought the warp together: nothing is overwritten that another lane has yet to read.
    for (int i = lane; i < pairs; i += 32) {
        float first = to_float(x[i]) * scale * gain[i], second = to_float(x[pairs + i]) * scale * gain[pairs + i];
        float cosine = table[i], sine = table[pairs + i];
        to[i] = from_float<T>(first * cosine - second * sine);
        to[pairs + i] = from_float<T>(second * cosine + first * sine);
    }
}

#define NORM_ROTATE_STORE(T)                                                                                      \
    ENTRY __launch_bounds__(128)                                                                                  \
        norm_rotate_store_##T(T* qkv, const float* query_gain, const float* key_gain, float eps,                  \
                              const float* table, const u32* slots, int heads, int kv_heads, int width, T* keys,  \
                              T* values) {                                                                        \
        norm_rotate_store<T>(qkv, query_gain, key_gain, eps, table, slots, heads, kv_heads, width, keys, values); \
    }
NORM_ROTATE_STORE(f32)
NORM_ROTATE_STORE(bf16)
