// Stands in for the GPU so that g++ can compile the kernels and a test can run them on a CPU.
//
// One fibre per CUDA thread; the blocks of a grid run one after the other. A fibre runs until it must wait for others:
// at __syncthreads for its block, at a shuffle or a matrix instruction for its warp. What is checked on the way:
// threads that wait at different barriers, or that ended while others wait; different warp instructions within one
// warp; unaligned wide accesses and bounds of arrays (the compiler's traps); accesses outside buffers (guard pages and
// the signal handler in emulation.cpp). Copies to shared memory land as late as they are allowed to, when they are
// waited for. Dynamic shared memory holds NaN at first. Running a launch twice, with threads and blocks in opposite
// orders, shows most missing barriers.
//
// Out of reach: how warps interleave on a real machine, its memory model, and speed.
#pragma once
#include <csetjmp>
#include <cmath>
#include <math.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One grid runs on one thread of the host, so a block's shared memory is that thread's.
#define __shared__ static thread_local

namespace emulation {

// What a fibre waits for.
enum class Wait { nothing, block, shuffle, matrix, warp, ended };

// A copy to shared memory that has been started.
struct Copy {
    void* to;
    const void* from;
};

// A CUDA thread.
struct Fibre {
    jmp_buf place;            // where it goes on
    bool started;             // whether `place` is valid
    Wait wait;                // what it waits for
    dim3 thread;              // threadIdx
    unsigned index;           // its place in the block
    unsigned turn;            // which of the two exchange areas its next warp instruction uses
    std::vector<std::vector<Copy>> copies;  // groups under way; the last one is still open
};

// What the lanes of a warp show each other: two areas, so that one wait per instruction is enough.
struct Exchange {
    unsigned char lanes[2][32][32];
};

extern thread_local Fibre* fibre;
extern thread_local dim3 block_index, block_extent, grid_extent;
extern thread_local std::vector<Exchange> exchanges;
unsigned char* dynamic_shared();
void wait_for(Wait what);

inline int lane() { return fibre->index % 32; }

// Shows `bytes` of this lane to its warp and returns all lanes' area, indexed by lane.
inline unsigned char (*exchange(const void* value, size_t bytes, Wait kind))[32] {
    auto& area = exchanges[fibre->index / 32].lanes[fibre->turn++ % 2];
    memcpy(area[lane()], value, bytes);
    wait_for(kind);
    return area;
}

template <class T>
T shuffle(T value, int source) {
    static_assert(sizeof(T) <= 32, "too wide to exchange");
    auto area = exchange(&value, sizeof(T), Wait::shuffle);
    memcpy(&value, area[source % 32], sizeof(T));
    return value;
}

}  // namespace emulation

#define threadIdx (emulation::fibre->thread)
#define blockIdx emulation::block_index
#define blockDim emulation::block_extent
#define gridDim emulation::grid_extent
#define DYNAMIC_SHARED(name) u8* name = emulation::dynamic_shared()

inline void __syncthreads() { emulation::wait_for(emulation::Wait::block); }
inline void __syncwarp() { emulation::wait_for(emulation::Wait::warp); }
template <class T>
T __shfl_sync(unsigned, T value, int source) {
    return emulation::shuffle(value, source);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::shuffle(value, emulation::lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
    int source = emulation::lane() - distance;
    T other = emulation::shuffle(value, source < 0 ? emulation::lane() : source);
    return other;
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    auto area = emulation::exchange(&vote, sizeof vote, emulation::Wait::shuffle);
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) votes |= unsigned(area[i][0] & 1) << i;
    return votes;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    uint64_t bytes = (uint64_t)high << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
    return result;
}
template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
// Fibres of one launch share a host thread, so nothing comes between.
template <class T>
T atomicAdd(T* to, T value) {
    T before = *to;
    *to += value;
    return before;
}
template <class T>
T atomicOr(T* to, T value) {
    T before = *to;
    *to |= value;
    return before;
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

inline unsigned pack_bf16(float low, float high) {
    auto round = [](float value) {
        unsigned bits = __float_as_uint(value);
        if (value != value) return 0x7fffu;
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return round(low) | round(high) << 16;
}
inline uint4 load_streaming(const void* from) { return *(const uint4*)from; }

// d += a * b with the fragments as the PTX ISA lays them out for mma.m16n8k16: lane 4 g + q holds, of a, rows g
// (a0, a2) and g + 8 (a1, a3) at inner indices 2q, 2q + 1 (a0, a1) and 2q + 8, 2q + 9 (a2, a3); of b, column g at
// 2q, 2q + 1 (b0) and 2q + 8, 2q + 9 (b1); of d, rows g (d0, d1) and g + 8 (d2, d3) at columns 2q and 2q + 1.
inline void mma_bf16(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    unsigned own[6] = {a0, a1, a2, a3, b0, b1};
    auto area = emulation::exchange(own, sizeof own, emulation::Wait::matrix);
    auto element = [&](int lane, int word, int half) {
        unsigned pair;
        memcpy(&pair, area[lane] + 4 * word, 4);
        return __uint_as_float(half ? pair & 0xffff0000u : pair << 16);
    };
    int group = emulation::lane() / 4, quad = emulation::lane() % 4;
    for (int i = 0; i < 4; i++) {
        int row = group + 8 * (i / 2), column = 2 * quad + i % 2;
        float sum = 0.0f;
        for (int k = 0; k < 16; k++) {
            int lane_a = row % 8 * 4 + k % 8 / 2, lane_b = column * 4 + k % 8 / 2;
            sum += element(lane_a, row / 8 + 2 * (k / 8), k % 2) * element(lane_b, 4 + k / 8, k % 2);
        }
        d[i] += sum;
    }
}

inline void copy_async(void* shared, const void* global, bool there) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) __builtin_trap();
    auto& copies = emulation::fibre->copies;
    if (copies.empty()) copies.emplace_back();
    copies.back().push_back({shared, there ? global : nullptr});
}
inline void copy_commit() {
    auto& copies = emulation::fibre->copies;
    if (copies.empty()) copies.emplace_back();
    copies.emplace_back();
}
template <int PENDING>
void copy_wait() {
    auto& copies = emulation::fibre->copies;
    while (copies.size() > PENDING + 1) {
        for (auto& copy : copies.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        copies.erase(copies.begin());
    }
}
