// One warp's step of attention on tensor cores: sixteen queries against the sixteen tokens of a cache block.
//
// Scores are a product over the head's width, outputs one over tokens with the head's width as columns. Neither cares
// in which order the head's elements stand at the places of a fragment, so every lane reads eight consecutive
// elements of keys, values and queries at once, from global or from shared memory, and no fragment is rearranged:
// element 32 j + 8 quad + i of a key or query stands at step 2 j + i / 4, and column `group` of output tile (j, i) is
// element 64 j + 8 group + i. A lane ends up with sixteen consecutive elements of the outputs of two queries.
#pragma once
#include "common.cuh"

// Sixteen queries; lane (group, quad) holds its share of queries group and group + 8.
template <int WIDTH>
struct Queries {
    uint4 upper[WIDTH / 32], lower[WIDTH / 32];

    // Takes the rows at the two pointers, or zeros where they are null.
    DEVICE void load(const bf16* upper_row, const bf16* lower_row) {
        int quad = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < WIDTH / 32; j++) {
            upper[j] = upper_row ? *(const uint4*)(upper_row + 32 * j + 8 * quad) : make_uint4(0, 0, 0, 0);
            lower[j] = lower_row ? *(const uint4*)(lower_row + 32 * j + 8 * quad) : make_uint4(0, 0, 0, 0);
        }
    }
};

// What has been gathered for queries group (index 0) and group + 8 (index 1).
template <int WIDTH>
struct Gathered {
    // Weighted sums of values. Tile 8 j + i: [0] and [1] are elements 64 j + 16 quad + i and + 8 of the upper query,
    // [2] and [3] of the lower one.
    float out[WIDTH / 8][4];
    // The largest score, in units of log2.
    float peak[2];
    // The sum of the weights; each lane has its share until `finish`.
    float total[2];

    DEVICE void clear() {
#pragma unroll
        for (int t = 0; t < WIDTH / 8; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[t][i] = 0.0f;
        peak[0] = peak[1] = minus_infinity();
        total[0] = total[1] = 0.0f;
    }

    // Adds the quad's shares of the totals up.
    DEVICE void finish() {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
            total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
        }
    }

    // Eight outputs of a query from 64 j + 16 quad + 8 part on.
    DEVICE void eight(int half, int j, int part, float scale, float (&v)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = out[8 * j + i][2 * half + part] * scale;
    }
};

// exp2(x - peak), where a peak of minus infinity means that nothing has been seen: then 0.
DEVICE float weight_of(float x, float peak) { return peak == minus_infinity() ? 0.0f : exp2f(x - peak); }

// Takes sixteen tokens in. Their keys and values lie `key_stride` and `value_stride` elements apart. The upper and
// lower query of this lane see the first upper_visible and lower_visible of them; values past `filled` may hold
// anything. `scale` is the scores' scale times log2(e).
template <int WIDTH>
DEVICE void attend(const Queries<WIDTH>& queries, Gathered<WIDTH>& gathered, const bf16* keys, int key_stride,
                   const bf16* values, int value_stride, int filled, int upper_visible, int lower_visible,
                   float scale) {
    int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
    float scores[2][4];
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const bf16* key = keys + (8 * n + group) * key_stride + 8 * quad;
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
#pragma unroll
        for (int j = 0; j < WIDTH / 32; j++) {
            uint4 k = *(const uint4*)(key + 32 * j), u = queries.upper[j], l = queries.lower[j];
            mma_bf16(scores[n], u.x, l.x, u.y, l.y, k.x, k.y);
            mma_bf16(scores[n], u.z, l.z, u.w, l.w, k.z, k.w);
        }
    }
    u32 weights[2][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int visible = half == 0 ? upper_visible : lower_visible;
        float peak = gathered.peak[half];
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& score = scores[n][2 * half + i];
                score = 8 * n + 2 * quad + i < visible ? score * scale : minus_infinity();
                peak = fmaxf(peak, score);
            }
        peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 2));
        float fade = weight_of(gathered.peak[half], peak), sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float first = weight_of(scores[n][2 * half], peak), second = weight_of(scores[n][2 * half + 1], peak);
            weights[n][half] = pack_bf16(first, second);
            sum += first + second;
        }
        gathered.peak[half] = peak;
        gathered.total[half] = gathered.total[half] * fade + sum;
#pragma unroll
        for (int t = 0; t < WIDTH / 8; t++) {
            gathered.out[t][2 * half] *= fade;
            gathered.out[t][2 * half + 1] *= fade;
        }
    }
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    const bf16* value = values + 2 * quad * value_stride + 8 * group;
#pragma unroll
    for (int j = 0; j < WIDTH / 64; j++) {
        // Tokens 2 quad, 2 quad + 1, 2 quad + 8 and 2 quad + 9. What is not filled may be NaN, so it is not read.
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int token = i % 2 + 8 * (i / 2);
            v[i] = 2 * quad + token < filled ? *(const uint4*)(value + token * value_stride + 64 * j) : nothing;
        }
        u32 words[4][4] = {{v[0].x, v[0].y, v[0].z, v[0].w},
                           {v[1].x, v[1].y, v[1].z, v[1].w},
                           {v[2].x, v[2].y, v[2].z, v[2].w},
                           {v[3].x, v[3].y, v[3].z, v[3].w}};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 half = i % 2 ? 0x7632 : 0x5410;
            u32 b0 = __byte_perm(words[0][i / 2], words[1][i / 2], half);
            u32 b1 = __byte_perm(words[2][i / 2], words[3][i / 2], half);
            mma_bf16(gathered.out[8 * j + i], weights[0][0], weights[0][1], weights[1][0], weights[1][1], b0, b1);
        }
    }
}
