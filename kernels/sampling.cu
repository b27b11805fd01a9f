// The choice of the next token: edits, penalties, temperature, top-k, top-p, min-p, and one number drawn.
//
// The rules, their order and the numbers are those of engine/sampler.rs. Probabilities are held in fixed point, so that
// sums do not depend on the order in which threads add: the same request gets the same token in any batch.
#include "common.cuh"

constexpr int THREADS = 1024, WARPS = 32, BINS = 2048;
// Temperatures below this choose the most likely token.
constexpr float GREEDY_BELOW = 1e-5f;
// exp(logit - greatest) as an integer; sums of a million fit.
constexpr float UNIT = 1099511627776.0f;  // 2^40
// What stands for no token: none has a finite logit.
constexpr u32 NO_TOKEN = 0xffffffffu;
// The row of `counts` of a request without penalties.
constexpr u32 NO_HISTORY = 0xffffffffu;
// Marks a token of the prompt in `counts`; the other bits say how often it was generated.
constexpr u32 IN_PROMPT = 0x80000000u;

// What a row asks for: 64 bytes.
struct SamplingRow {
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    u32 top_k;  // 0 keeps all
    u32 history;  // its row of `counts`, or NO_HISTORY
    u32 seed_low, seed_high, step, choice, stage, within_step;  // key and counter of the random number
    u32 first_edit, edits;  // its part of `edits`
};

// Adds `bias` to the logit of `token`; minus infinity forbids it.
struct Edit {
    u32 token;
    float bias;
};

// Philox4x32-10: 53 random bits, at the top of a word, from the first two words of the output.
DEVICE u64 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return ((u64)c0 << 32 | c1) & ~(u64)0x7ff;
}

// An integer in the order of the float; NaN must not come here.
DEVICE u32 ordered(float value) {
    u32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A row of processed logits.
struct Row {
    const float* logits;
    int vocabulary;
    float greatest;

    // How far a token lies behind the most likely one: 0 for that one, larger for less likely ones.
    DEVICE u32 distance(int id) const { return ordered(greatest) - ordered(logits[id]); }
    // The logit at a distance.
    DEVICE float logit_at(u32 distance) const {
        u32 bits = ordered(greatest) - distance;
        return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
    }
    // Its probability up to a common factor.
    DEVICE float weight(int id) const { return expf(logits[id] - greatest); }
    DEVICE u64 mass(int id) const { return (u64)(weight(id) * UNIT); }
};

// What threads work out together.
struct Scratch {
    u64 bins[BINS];
    u64 warp_mass[WARPS];
    u32 warp_ties[WARPS];
    float warp_best[WARPS];
    int warp_index[WARPS];
    u64 before;
    u32 bin;
};

DEVICE u64 warp_sum(u64 value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

// The sum of the lanes before this one and itself.
DEVICE u64 warp_scan(u64 value) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        u64 other = __shfl_up_sync(ALL_LANES, value, step);
        if (lane >= step) value += other;
    }
    return value;
}

// Sums over the block, for every thread; ends with a barrier.
DEVICE u64 block_sum(u64 value, Scratch& scratch) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) scratch.warp_mass[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sum(scratch.warp_mass[threadIdx.x % 32]);
    __syncthreads();
    return value;
}

// The distance at which tokens up to `limit`, the most likely first, reach `wanted` together, by their number or by
// their mass; `before` is what all nearer ones have. Three digits of the distance, one after the other.
template <bool BY_MASS>
DEVICE u32 reach(const Row& row, u32 limit, u64 wanted, u64& before, Scratch& scratch) {
    u32 prefix = 0;
    before = 0;
#pragma unroll
    for (int digit = 0; digit < 3; digit++) {
        const int shift = digit == 0 ? 21 : digit == 1 ? 10 : 0, bits = digit == 2 ? 10 : 11;
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) scratch.bins[bin] = 0;
        if (threadIdx.x == 0) scratch.bin = BINS;
        __syncthreads();
        for (int id = threadIdx.x; id < row.vocabulary; id += THREADS) {
            u32 distance = row.distance(id);
            if (distance > limit || (digit > 0 && distance >> (shift + bits) != prefix)) continue;
            u64 amount = BY_MASS ? row.mass(id) : 1;
            if (amount) atomicAdd(&scratch.bins[distance >> shift & ((1u << bits) - 1)], amount);
        }
        __syncthreads();
        // Two bins a thread; the one in which the sum reaches `wanted` is told to all.
        u64 first = scratch.bins[2 * threadIdx.x], second = scratch.bins[2 * threadIdx.x + 1];
        u64 through = warp_scan(first + second);
        if (threadIdx.x % 32 == 31) scratch.warp_mass[threadIdx.x / 32] = through;
        __syncthreads();
        u64 earlier = warp_scan(scratch.warp_mass[threadIdx.x % 32]);
        earlier = __shfl_sync(ALL_LANES, earlier, threadIdx.x / 32) - scratch.warp_mass[threadIdx.x / 32];
        u64 at = before + earlier + through - first - second;
        if (at < wanted && at + first >= wanted) scratch.bin = 2 * threadIdx.x, scratch.before = at;
        else if (at + first < wanted && at + first + second >= wanted)
            scratch.bin = 2 * threadIdx.x + 1, scratch.before = at + first;
        __syncthreads();
        // All of them together have less: all stay.
        if (scratch.bin == BINS) return limit;
        prefix = prefix << bits | scratch.bin;
        before = scratch.before;
        __syncthreads();
    }
    return prefix;
}

// The best value and, of equal ones, the lowest index, for every thread.
DEVICE void block_best(float& best, int& index, Scratch& scratch) {
#pragma unroll
    for (int level = 0; level < 2; level++) {
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            float other = __shfl_xor_sync(ALL_LANES, best, mask);
            int other_index = __shfl_xor_sync(ALL_LANES, index, mask);
            if (other > best || (other == best && other_index < index)) best = other, index = other_index;
        }
        if (level == 1) break;
        if (threadIdx.x % 32 == 0)
            scratch.warp_best[threadIdx.x / 32] = best, scratch.warp_index[threadIdx.x / 32] = index;
        __syncthreads();
        best = scratch.warp_best[threadIdx.x % 32], index = scratch.warp_index[threadIdx.x % 32];
    }
}

// Draws from the tokens nearer than `threshold` and the `ties` last ones at it, of which each weighs at least `min_p`;
// shares are laid out in order of id. Each warp has a stretch of the vocabulary.
DEVICE u32 draw(const Row& row, u32 threshold, u32 ties, float min_p, u64 random, Scratch& scratch) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int stretch = (row.vocabulary + WARPS - 1) / WARPS, first = min(warp * stretch, row.vocabulary);
    int end = min(first + stretch, row.vocabulary);
    u64 own = 0, tie_mass = 0;
    u32 own_ties = 0;
    for (int id = first + lane; id < end; id += 32) {
        u32 distance = row.distance(id);
        if (distance > threshold) continue;
        u64 mass = row.weight(id) >= min_p ? row.mass(id) : 0;
        if (distance == threshold) own_ties++, tie_mass = mass;
        else own += mass;
    }
    own = warp_sum(own);
    own_ties = (u32)warp_sum((u64)own_ties);
    // Ties weigh the same, so the largest of the lanes' values is that of each.
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) tie_mass = max(tie_mass, __shfl_xor_sync(ALL_LANES, tie_mass, mask));
    if (lane == 0) scratch.warp_ties[warp] = own_ties;
    __syncthreads();
    u32 ties_before = 0, all_ties = 0;
    for (int w = 0; w < WARPS; w++) {
        if (w < warp) ties_before += scratch.warp_ties[w];
        all_ties += scratch.warp_ties[w];
    }
    u32 dropped = all_ties > ties ? all_ties - ties : 0;
    u32 kept_before = ties_before > dropped ? ties_before - dropped : 0;
    u32 kept_through = ties_before + own_ties > dropped ? ties_before + own_ties - dropped : 0;
    own += (u64)(kept_through - kept_before) * tie_mass;
    if (lane == 0) scratch.warp_mass[warp] = own;
    if (threadIdx.x == 0) scratch.bin = NO_TOKEN;
    __syncthreads();
    u64 through = warp_scan(scratch.warp_mass[lane]), total = __shfl_sync(ALL_LANES, through, 31);
    u64 before = __shfl_sync(ALL_LANES, through, warp) - own, target = __umul64hi(total, random);
    if (before <= target && target < before + own) {
        u32 tie = ties_before;
        for (int base = first; base < end; base += 32) {
            int id = base + lane;
            u32 distance = id < end ? row.distance(id) : NO_TOKEN;
            bool there = id < end && distance <= threshold, tied = there && distance == threshold;
            u32 votes = __ballot_sync(ALL_LANES, tied);
            if (tied && tie + __popc(votes & ((1u << lane) - 1)) < dropped) there = false;
            tie += __popc(votes);
            u64 mass = there && row.weight(id) >= min_p ? row.mass(id) : 0, sum = before + warp_scan(mass);
            if (sum - mass <= target && target < sum) scratch.bin = id;
            before = __shfl_sync(ALL_LANES, sum, 31);
            if (target < before) break;
        }
    }
    __syncthreads();
    return scratch.bin;
}

// DeviceSteps::start_history. Grid [1], block [1024].
// history[seen[i].token] = seen[i].word for a row of `counts` and `count` tokens, none of them twice; with `fresh` all
// others become zero.
ENTRY __launch_bounds__(1024) count_tokens(u32* history, int vocabulary, const uint2* seen, int count, int fresh) {
    if (fresh) {
        for (int id = threadIdx.x; id < vocabulary; id += THREADS) history[id] = 0;
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count; i += THREADS) {
        uint2 one = seen[i];
        if (one.x < (u32)vocabulary) history[one.x] = one.y;
    }
}

// DeviceSteps::sample. Chooses a token for every row. Grid [rows], block [1024].
//
// logits f32 [rows, vocabulary] are overwritten; tokens u32 [rows], NO_TOKEN where no logit is finite. `counts` u32
// [histories, vocabulary] holds what each request's tokens are counted in; the chosen one is counted. `edits` has a
// token at most once a row.
ENTRY __launch_bounds__(1024, 1) sample(float* logits, int vocabulary, const SamplingRow* rows, const Edit* edits,
                                     u32* counts, u32* tokens) {
    __shared__ Scratch scratch;
    SamplingRow params = rows[blockIdx.x];
    logits += (u64)blockIdx.x * vocabulary;
    bool greedy = params.temperature < GREEDY_BELOW, has_history = params.history != NO_HISTORY;
    u32* history = has_history ? counts + (u64)params.history * vocabulary : nullptr;
    for (u32 i = threadIdx.x; i < params.edits; i += THREADS) {
        Edit edit = edits[params.first_edit + i];
        if ((int)edit.token < vocabulary) logits[edit.token] += edit.bias;
    }
    __syncthreads();
    float best = minus_infinity();
    int index = vocabulary;
    bool rewrite = !greedy || has_history;
    for (int id = threadIdx.x; id < vocabulary; id += THREADS) {
        float logit = logits[id];
        u32 seen = has_history ? history[id] : 0;
        if (seen) {
            logit = logit >= 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
            u32 generated = seen & ~IN_PROMPT;
            if (generated) logit -= params.presence_penalty + params.frequency_penalty * (float)generated;
        }
        if (!greedy) logit /= params.temperature;
        if (logit != logit) logit = minus_infinity();
        if (rewrite) logits[id] = logit;
        if (logit > best) best = logit, index = id;
    }
    block_best(best, index, scratch);
    __syncthreads();
    u32 token = index;
    if (fabsf(best) == -minus_infinity()) {
        token = NO_TOKEN;
    } else if (!greedy) {
        Row row = {logits, vocabulary, best};
        u32 threshold = 0xffffffffu, ties = 0xffffffffu;
        u64 before;
        if (params.top_k > 0 && params.top_k < (u32)vocabulary)
            threshold = reach<false>(row, threshold, params.top_k, before, scratch);
        if (params.top_p < 1.0f) {
            u64 own = 0;
            for (int id = threadIdx.x; id < vocabulary; id += THREADS)
                if (row.distance(id) <= threshold) own += row.mass(id);
            u64 wanted = (u64)ceil((double)params.top_p * (double)block_sum(own, scratch));
            if (wanted == 0) wanted = 1;
            threshold = reach<true>(row, threshold, wanted, before, scratch);
            // Of equally likely ones those with the higher ids come first, until what is wanted is reached.
            u64 mass = (u64)(expf(row.logit_at(threshold) - best) * UNIT);
            ties = mass ? (u32)min((wanted - before + mass - 1) / mass, (u64)0xffffffffu) : 0xffffffffu;
        }
        u64 random = philox(params.step, params.choice, params.stage, params.within_step, params.seed_low,
                            params.seed_high);
        token = draw(row, threshold, ties, params.min_p, random, scratch);
    }
    if (threadIdx.x != 0) return;
    tokens[blockIdx.x] = token;
    if (has_history && token != NO_TOKEN) history[token]++;
}
