// Mixture of experts: which experts rows choose, the order in which experts work, and the sum of what they give.
//
// A pair is one choice of one row: row * top_k + choice.
#include "common.cuh"

// Backend::route. Grid [ceil(rows / 4)], block [128], dynamic shared memory 16 * experts bytes; experts <= 1024.
// Softmax over a row of `logits`, f32 [rows, experts], and its top_k largest, largest first, of equal ones the lower
// index first; chosen u32 and weights f32 [rows, top_k]. One warp a row. NaN counts as minus infinity.
ENTRY __launch_bounds__(128) moe_route(const float* logits, int rows, int experts, int top_k, int normalize,
                                       u32* chosen, float* weights) {
    DYNAMIC_SHARED(bytes);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * 4 + warp;
    if (row >= rows) return;
    float* scores = (float*)bytes + warp * experts;
    logits += (u64)row * experts, chosen += (u64)row * top_k, weights += (u64)row * top_k;
    float peak = minus_infinity();
    for (int e = lane; e < experts; e += 32) {
        float score = logits[e];
        if (score != score) score = minus_infinity();
        scores[e] = score;
        peak = fmaxf(peak, score);
    }
    peak = warp_max(peak);
    float total = 0.0f;
    for (int e = lane; e < experts; e += 32) total += expf(scores[e] - peak);
    total = warp_sum(total);
    // Which of this lane's experts (lane + 32 i) are taken.
    u32 taken = 0;
    float sum = 0.0f;
    for (int choice = 0; choice < top_k; choice++) {
        float best = minus_infinity();
        int index = experts;
        for (int e = lane, i = 0; e < experts; e += 32, i++)
            if (!(taken >> i & 1) && (index == experts || scores[e] > best)) best = scores[e], index = e;
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            float other = __shfl_xor_sync(ALL_LANES, best, mask);
            int other_index = __shfl_xor_sync(ALL_LANES, index, mask);
            bool better = other > best || (other == best && other_index < index);
            if (other_index < experts && (index == experts || better)) best = other, index = other_index;
        }
        if (index % 32 == lane) taken |= 1u << (index / 32);
        float weight = expf(best - peak) / total;
        sum += weight;
        if (lane == 0) chosen[choice] = index, weights[choice] = weight;
    }
    if (normalize && lane == 0)
        for (int choice = 0; choice < top_k; choice++) weights[choice] /= sum;
}

// Orders the pairs by expert and, within one, by pair. Grid [experts], block [256]; experts <= 1024. No atomics: each
// block finds where its expert's pairs begin by looking at all of them.
// `order` u32 [pairs]; `starts` u32 [experts + 1]; `active` u32 [active_length]: the experts that were chosen, in
// order, then `experts` for the rest. active_length is min(experts, pairs).
ENTRY __launch_bounds__(256) moe_group(const u32* chosen, int pairs, u32* order, u32* starts, u32* active,
                                       int active_length) {
    __shared__ u32 present[32];
    __shared__ float scratch[32];
    __shared__ u32 counts[8];
    u32 expert = blockIdx.x, experts = gridDim.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x < 32) present[threadIdx.x] = 0;
    __syncthreads();
    int before = 0;
    for (int pair = threadIdx.x; pair < pairs; pair += 256) {
        u32 e = chosen[pair];
        before += e < expert;
        atomicOr(&present[e / 32], 1u << (e % 32));
    }
    // Exact as floats: there are fewer pairs than 2^24.
    u32 start = (u32)block_sum((float)before, scratch);
    __syncthreads();
    // The pairs of this expert, 256 at a time, in order.
    u32 place = start;
    for (int first = 0; first < pairs; first += 256) {
        int pair = first + threadIdx.x;
        bool own = pair < pairs && chosen[pair] == expert;
        u32 votes = __ballot_sync(ALL_LANES, own);
        if (lane == 0) counts[warp] = __popc(votes);
        __syncthreads();
        u32 earlier = __popc(votes & ((1u << lane) - 1)), all = 0;
#pragma unroll
        for (int w = 0; w < 8; w++) {
            if (w < warp) earlier += counts[w];
            all += counts[w];
        }
        if (own) order[place + earlier] = pair;
        place += all;
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    starts[expert] = start;
    u32 chosen_before = 0, chosen_at_all = 0;
    for (u32 word = 0; word < 32; word++) {
        u32 bits = present[word];
        chosen_at_all += __popc(bits);
        if (word < expert / 32) chosen_before += __popc(bits);
        if (word == expert / 32) chosen_before += __popc(bits & ((1u << (expert % 32)) - 1));
    }
    if (present[expert / 32] >> (expert % 32) & 1) active[chosen_before] = expert;
    if (expert == experts - 1) {
        starts[experts] = pairs;
        for (int i = chosen_at_all; i < active_length; i++) active[i] = experts;
    }
}

// Cuts every expert's pairs into tiles of at most 64. Grid [1], block [1024]; experts <= 1024.
// tiles int4 [length] = {expert, first place in `order`, pairs, 0}, the rest with no pairs; a length of
// ceil(pairs / 64) + experts is enough.
ENTRY __launch_bounds__(1024) moe_tiles(const u32* starts, int experts, int4* tiles, int length) {
    __shared__ u32 sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, expert = threadIdx.x;
    u32 first = expert < experts ? starts[expert] : 0, end = expert < experts ? starts[expert + 1] : 0;
    u32 own = (end - first + 63) / 64, through = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        u32 other = __shfl_up_sync(ALL_LANES, through, distance);
        if (lane >= distance) through += other;
    }
    if (lane == 31) sums[warp] = through;
    __syncthreads();
    u32 before = through - own, all = 0;
    for (int w = 0; w < 32; w++) {
        if (w < warp) before += sums[w];
        all += sums[w];
    }
    for (u32 tile = 0; tile < own; tile++) {
        u32 from = first + tile * 64;
        tiles[before + tile] = make_int4(expert, from, min(end - from, 64u), 0);
    }
    for (int i = all + threadIdx.x; i < length; i += 1024) tiles[i] = make_int4(0, 0, 0, 0);
}

// Backend::combine_experts. Grid [ceil(width / 2048), rows], block [256].
// out[row] = sum over choices, in their order, of weight * x[pair]; x [pairs, width], out [rows, width].
template <class T>
DEVICE void moe_combine(const T* x, const float* weights, int top_k, int width, T* out) {
    int at = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= width) return;
    u64 row = blockIdx.y;
    float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, v[8];
    for (int choice = 0; choice < top_k; choice++) {
        float weight = weights[row * top_k + choice];
        load_chunk(x + (row * top_k + choice) * width, at, width, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += weight * v[i];
    }
    store_chunk(out + row * width, at, width, sum);
}

#define MOE_COMBINE(T)                                                                                               \
    ENTRY __launch_bounds__(256) moe_combine_##T(const T* x, const float* weights, int top_k, int width, T* out) {   \
        moe_combine<T>(x, weights, top_k, width, out);                                                               \
    }
MOE_COMBINE(f32)
MOE_COMBINE(bf16)
