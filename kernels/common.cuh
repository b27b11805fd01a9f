// What the kernels share: element types, wide loads, reductions, and the few PTX instructions that they use.
//
// Nothing is included but, in the tests on a CPU, the header that stands in for the GPU: NVRTC compiles the kernels
// with no toolkit headers at hand. All of it needs compute capability 8.0 and nothing newer.
//
// Conventions. Matrices are row-major, [rows, width]. `lane` is a thread's index in its warp; `group` = lane / 4 and
// `quad` = lane % 4 are the coordinates of a lane in a fragment of mma.m16n8k16. Buffers are aligned to 16 bytes.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;

#ifdef OMNI_EMULATION
#include "emulation.h"
#endif

#define ENTRY extern "C" __global__ void
#define DEVICE __device__ __forceinline__

#define ALL_LANES 0xffffffffu
// Tokens in a block of KV cache; the same as BLOCK_SIZE in tensor/batch.rs.
#define BLOCK_TOKENS 16
// A slot that stands for no place in the cache: rows that pad a batch to the size of a captured graph.
#define NO_SLOT 0xffffffffu

// The upper half of a 32-bit float, rounded to nearest even.
struct bf16 {
    u16 bits;
};

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

DEVICE float to_float(float value) { return value; }
DEVICE float to_float(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

#ifndef OMNI_EMULATION
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]

// Two floats as bf16, the first in the low half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Sixteen bytes that will not be read again soon: weights pass the first cache by.
DEVICE uint4 load_streaming(const void* from) {
    uint4 value;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from)
                 : "memory");
    return value;
}

// d += a * b on the tensor cores, over a whole warp: a is 16x16, b 16x8, d 16x8.
DEVICE void mma_bf16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Starts copying sixteen bytes to shared memory, or sixteen zeros where there is no source.
DEVICE void copy_async(void* shared, const void* global, bool there) {
    u32 to = (u32)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(there ? 16 : 0)
                 : "memory");
}

// Closes a group of copies.
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` groups of this thread are under way.
template <int PENDING>
DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

template <class T>
DEVICE T from_float(float value);
template <>
DEVICE float from_float<float>(float value) {
    return value;
}
template <>
DEVICE bf16 from_float<bf16>(float value) {
    bf16 rounded;
    rounded.bits = (u16)(pack_bf16(value, 0.0f) & 0xffffu);
    return rounded;
}

DEVICE void widen(u32 pair, float& low, float& high) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}

DEVICE void widen(uint4 packed, float (&out)[8]) {
    widen(packed.x, out[0], out[1]);
    widen(packed.y, out[2], out[3]);
    widen(packed.z, out[4], out[5]);
    widen(packed.w, out[6], out[7]);
}

// Eight aligned elements.
DEVICE void load8(const bf16* from, float (&out)[8]) { widen(*(const uint4*)from, out); }
DEVICE void load8(const float* from, float (&out)[8]) {
    float4 low = ((const float4*)from)[0], high = ((const float4*)from)[1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}
DEVICE void store8(bf16* to, const float (&v)[8]) {
    *(uint4*)to = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}
DEVICE void store8(float* to, const float (&v)[8]) {
    ((float4*)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// Elements at..at+8 of a row, zeros past its end. Rows are aligned for wide loads where their width is a multiple of 8.
template <class T>
DEVICE void load_chunk(const T* row, int at, int width, float (&out)[8]) {
    if (width % 8 == 0 && at < width) {
        load8(row + at, out);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = at + i < width ? to_float(row[at + i]) : 0.0f;
    }
}
template <class T>
DEVICE void store_chunk(T* row, int at, int width, const float (&v)[8]) {
    if (width % 8 == 0) {
        if (at < width) store8(row + at, v);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (at + i < width) row[at + i] = from_float<T>(v[i]);
    }
}

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

DEVICE float warp_sum(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, mask));
    return value;
}

// The sum over a block of up to 32 whole warps, for every thread. `scratch` may be used again after a barrier.
DEVICE float block_sum(float value, float (&scratch)[32]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}
