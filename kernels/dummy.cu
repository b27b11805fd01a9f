// Weights that are made up, made where they are to lie: the values of tensor/weights/dummy.rs, bit for bit.
#include "common.cuh"

// Values whose counters follow on each other; CHUNK in tensor/weights/dummy.rs.
#define CHUNK_VALUES (1ull << 18)

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
DEVICE u64 mix(u64 counter) {
    u64 bits = counter + 0x9e3779b97f4a7c15ull;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
    return bits ^ (bits >> 31);
}

// Recipe::values. Grid [ceil(count / 1024)], block [256]: four values a thread, picked by the bits of one counter.
// draws [65536]; out [count], all ones unless `drawn`. `out` is aligned for its elements and no further.
template <class T>
DEVICE void dummy(const bf16* draws, int drawn, u64 stream, u64 count, T* out) {
    u64 first = ((u64)blockIdx.x * 256 + threadIdx.x) * 4;
    if (first >= count) return;
    u64 within = first % CHUNK_VALUES;
    u64 bits = mix(stream + ((first - within) << 1) + within / 4 + 1);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (first + i < count) out[first + i] = from_float<T>(drawn ? to_float(draws[bits & 0xffff]) : 1.0f);
        bits >>= 16;
    }
}

#define DUMMY_ENTRY(T)                                                                                            \
    ENTRY __launch_bounds__(256) dummy_##T(const bf16* draws, int drawn, u64 stream, u64 count, T* out) {         \
        dummy<T>(draws, drawn, stream, count, out);                                                               \
    }
DUMMY_ENTRY(f32)
DUMMY_ENTRY(bf16)
