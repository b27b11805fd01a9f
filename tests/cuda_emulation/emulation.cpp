// Runs the kernels of all families for the tests: fibres, their scheduling, and launches by name.
#include "emulation.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <ucontext.h>
#include <utility>

namespace emulation {

thread_local Fibre* fibre;
thread_local dim3 block_index, block_extent, grid_extent;
thread_local std::vector<Exchange> exchanges;

namespace {

constexpr size_t STACK_BYTES = 64 << 10;

thread_local std::vector<unsigned char> shared_bytes;
thread_local std::vector<Fibre> fibres;
thread_local std::vector<std::vector<unsigned char>> stacks;
thread_local jmp_buf scheduler;
thread_local sigjmp_buf launch_start;
thread_local std::function<void()> body;
thread_local std::string failure;

void run_fibre() {
    body();
    fibre->wait = Wait::ended;
    _longjmp(scheduler, 1);
}

// Lets one fibre go on until it waits or ends. Only its first start costs a system call.
void resume(Fibre& next) {
    fibre = &next;
    next.wait = Wait::nothing;
    if (_setjmp(scheduler) != 0) return;
    if (next.started) _longjmp(next.place, 1);
    next.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[next.index].data();
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, run_fibre, 0);
    setcontext(&context);
}

std::string place() {
    char text[160];
    dim3 t = fibre ? fibre->thread : dim3{0, 0, 0};
    snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u)", block_index.x, block_index.y,
             block_index.z, t.x, t.y, t.z);
    return text;
}

const char* name_of(Wait wait) {
    switch (wait) {
        case Wait::nothing: return "nothing";
        case Wait::block: return "a block barrier";
        case Wait::shuffle: return "a shuffle";
        case Wait::matrix: return "a matrix instruction";
        case Wait::warp: return "a warp barrier";
        case Wait::ended: return "its end";
    }
    return "";
}

// Whether all of a range of fibres wait for the same thing; sets `common` to it.
bool agree(size_t from, size_t to, Wait& common) {
    common = fibres[from].wait;
    for (size_t i = from; i < to; i++)
        if (fibres[i].wait != common) return false;
    return true;
}

// Runs the fibres of the current block to their end. Returns what is wrong, or nothing.
std::string run_block(bool reversed) {
    size_t count = fibres.size(), warps = (count + 31) / 32;
    for (;;) {
        // Every warp goes as far as it can by itself before the block meets.
        for (size_t w = 0; w < warps; w++) {
            size_t warp = reversed ? warps - 1 - w : w, from = warp * 32, to = std::min(from + 32, count);
            for (;;) {
                for (size_t i = 0; i < to - from; i++) {
                    Fibre& next = fibres[reversed ? to - 1 - i : from + i];
                    if (next.wait == Wait::nothing) resume(next);
                }
                Wait common;
                if (!agree(from, to, common)) {
                    for (size_t i = from; i < to; i++)
                        if (fibres[i].wait != fibres[from].wait) {
                            fibre = &fibres[i];
                            return place() + " waits at " + name_of(fibres[i].wait) +
                                   " where the first lane of its warp waits at " + name_of(fibres[from].wait);
                        }
                }
                if (common == Wait::block || common == Wait::ended) break;
                for (size_t i = from; i < to; i++) fibres[i].wait = Wait::nothing;
            }
        }
        Wait common;
        if (!agree(0, count, common)) return place() + ": a block barrier that not all warps of the block reach";
        if (common == Wait::ended) return "";
        for (auto& each : fibres) each.wait = Wait::nothing;
    }
}

std::string run_grid(bool reversed) {
    unsigned threads = block_extent.x * block_extent.y * block_extent.z;
    fibres.resize(threads);
    while (stacks.size() < threads) stacks.emplace_back(STACK_BYTES);
    exchanges.resize((threads + 31) / 32);
    unsigned blocks = grid_extent.x * grid_extent.y * grid_extent.z;
    for (unsigned b = 0; b < blocks; b++) {
        unsigned at = reversed ? blocks - 1 - b : b;
        block_index = {at % grid_extent.x, at / grid_extent.x % grid_extent.y, at / grid_extent.x / grid_extent.y};
        std::fill(shared_bytes.begin(), shared_bytes.end(), 0xff);
        for (unsigned i = 0; i < threads; i++) {
            fibres[i].started = false;
            fibres[i].wait = Wait::nothing;
            fibres[i].index = i;
            fibres[i].turn = 0;
            fibres[i].copies.clear();
            fibres[i].thread = {i % block_extent.x, i / block_extent.x % block_extent.y,
                                i / block_extent.x / block_extent.y};
        }
        std::string wrong = run_block(reversed);
        if (!wrong.empty()) return wrong;
    }
    return "";
}

// A signal inside a kernel ends the launch; one elsewhere goes where it went before.
thread_local bool in_launch = false;
struct sigaction before[NSIG];
void on_signal(int signal, siginfo_t*, void*) {
    if (in_launch) siglongjmp(launch_start, signal);
    sigaction(signal, &before[signal], nullptr);
    raise(signal);
}

void catch_signals() {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(signal, &action, &before[signal]);
}

// A kernel with its parameters behind pointers, as the driver takes them.
struct Kernel {
    size_t parameters;
    std::function<void(void**)> run;
};

template <class... P, size_t... I>
Kernel entry(void (*kernel)(P...), std::index_sequence<I...>) {
    return {sizeof...(P), [kernel](void** arguments) { kernel(*static_cast<P*>(arguments[I])...); }};
}
template <class... P>
Kernel entry(void (*kernel)(P...)) {
    return entry(kernel, std::index_sequence_for<P...>());
}

}  // namespace

unsigned char* dynamic_shared() {
    auto address = reinterpret_cast<uintptr_t>(shared_bytes.data());
    return reinterpret_cast<unsigned char*>((address + 15) / 16 * 16);
}

void wait_for(Wait what) {
    fibre->wait = what;
    if (_setjmp(fibre->place) == 0) _longjmp(scheduler, 1);
}

}  // namespace emulation

#include "norm.cu"
#include "activation.cu"
#include "embedding.cu"
#include "matvec.cu"
#include "matmul.cu"
#include "rotary_cache.cu"
#include "attention_decode.cu"
#include "attention_prefill.cu"
#include "moe_routing.cu"
#include "moe_decode.cu"
#include "moe_prefill.cu"
#include "sampling.cu"

// Kernels with one mistake each, to show that it is reported.
ENTRY faulty_barrier(float* out) {
    if (threadIdx.x == 40) return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}
ENTRY faulty_bounds(float* out) { out[threadIdx.x == 63 ? 1 << 14 : threadIdx.x] = 1.0f; }
ENTRY faulty_alignment(float* out) { *(float4*)(out + threadIdx.x % 3) = make_float4(1, 1, 1, 1); }
ENTRY faulty_order(float* out) {
    __shared__ float first;
    if (threadIdx.x == 0) first = out[0] + 1.0f;
    if (threadIdx.x == 1) out[1] = first;
    __syncthreads();
    if (threadIdx.x == 0) first = 0.0f;
}
ENTRY faulty_copy(float* out) {
    DYNAMIC_SHARED(bytes);
    float* to = (float*)bytes;
    if (threadIdx.x < 16) copy_async(to + 4 * threadIdx.x, out + 4 * threadIdx.x, true);
    copy_commit();
    if (threadIdx.x == 0) copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = to[threadIdx.x];
}

#define KERNEL(name) {#name, emulation::entry(name)}

// Every entry point of kernels/; a test compares it with what the PTX holds.
static const std::map<std::string, emulation::Kernel>& kernels() {
    static const std::map<std::string, emulation::Kernel> all = {
        KERNEL(faulty_barrier),
        KERNEL(faulty_bounds),
        KERNEL(faulty_alignment),
        KERNEL(faulty_order),
        KERNEL(faulty_copy),
        // norm.cu
        KERNEL(rms_norm_f32),
        KERNEL(add_rms_norm_f32),
        KERNEL(rms_norm_bf16),
        KERNEL(add_rms_norm_bf16),
        // activation.cu
        KERNEL(swiglu_f32),
        KERNEL(add_gated_f32),
        KERNEL(swiglu_bf16),
        KERNEL(add_gated_bf16),
        // embedding.cu
        KERNEL(embed_f32_f32),
        KERNEL(embed_bf16_f32),
        KERNEL(embed_bf16_bf16),
        KERNEL(gather_rows_f32),
        KERNEL(gather_rows_bf16),
        KERNEL(take_tokens),
        // matvec.cu
        KERNEL(matvec_mma_bf16_8),
        KERNEL(matvec_mma_bf16_16),
        KERNEL(matvec_mma_bf16_32),
        KERNEL(matvec_mma_f32_8),
        KERNEL(matvec_mma_f32_16),
        KERNEL(matvec_mma_f32_32),
        KERNEL(matvec_f32_f32_f32),
        KERNEL(matvec_f32_bf16_f32),
        KERNEL(matvec_bf16_bf16_bf16),
        KERNEL(matvec_bf16_bf16_f32),
        // matmul.cu
        KERNEL(matmul_mma_bf16),
        KERNEL(matmul_mma_f32),
        KERNEL(matmul_f32_f32),
        KERNEL(matmul_f32_bf16),
        // rotary_cache.cu
        KERNEL(rotary_table),
        KERNEL(norm_rotate_store_f32),
        KERNEL(norm_rotate_store_bf16),
        // attention_decode.cu
        KERNEL(attention_any_f32),
        KERNEL(attention_any_bf16),
        KERNEL(attention_decode_bf16_64),
        KERNEL(attention_decode_bf16_128),
        KERNEL(attention_combine_f32),
        KERNEL(attention_combine_bf16),
        // attention_prefill.cu
        KERNEL(attention_prefill_bf16_64),
        KERNEL(attention_prefill_bf16_128),
        // moe_routing.cu
        KERNEL(moe_route),
        KERNEL(moe_group),
        KERNEL(moe_tiles),
        KERNEL(moe_combine_f32),
        KERNEL(moe_combine_bf16),
        // moe_decode.cu
        KERNEL(moe_gate_up_gather),
        KERNEL(moe_gate_up_grouped),
        KERNEL(moe_down_gather),
        KERNEL(moe_down_grouped),
        KERNEL(expert_matvec_f32_f32),
        KERNEL(expert_matvec_f32_bf16),
        KERNEL(expert_matvec_bf16_bf16),
        // moe_prefill.cu
        KERNEL(moe_matmul),
        // sampling.cu
        KERNEL(count_tokens),
        KERNEL(sample),
    };
    return all;
}

// Runs a kernel. Returns null, or what went wrong in memory that lasts until the thread's next launch.
extern "C" const char* emulation_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared,
                                        void** arguments, size_t parameters, bool reversed) {
    using namespace emulation;
    static bool ready = (catch_signals(), true);
    (void)ready;
    auto kernel = kernels().find(name);
    if (kernel == kernels().end()) return (failure = std::string("no kernel named ") + name).c_str();
    if (kernel->second.parameters != parameters)
        return (failure = std::string(name) + " takes " + std::to_string(kernel->second.parameters) + " parameters, " +
                          std::to_string(parameters) + " given")
            .c_str();
    grid_extent = {grid[0], grid[1], grid[2]};
    block_extent = {block[0], block[1], block[2]};
    shared_bytes.assign(shared + 16, 0xff);
    body = [&] { kernel->second.run(arguments); };
    fibre = nullptr;
    in_launch = true;
    int signal = sigsetjmp(launch_start, 1);
    std::string wrong;
    if (signal == 0) wrong = run_grid(reversed);
    else
        wrong = place() + (signal == SIGILL ? ": a misaligned access or an index outside an array"
                                            : ": an access outside the buffers (signal " + std::to_string(signal) + ")");
    in_launch = false;
    if (wrong.empty()) return nullptr;
    return (failure = std::string(name) + ", " + wrong).c_str();
}

// The names of all kernels, separated by spaces.
extern "C" const char* emulation_kernels() {
    static std::string names;
    if (names.empty())
        for (auto& kernel : kernels()) names += (names.empty() ? "" : " ") + kernel.first;
    return names.c_str();
}
