// Rows picked by index: token embeddings, and the rows whose logits are wanted; and tokens that nobody but the device
// knows yet.
#include "common.cuh"

// Stands for the source of a row whose token came with the step.
constexpr u32 NO_SOURCE = 0xffffffffu;

// Backend::embed. Grid [rows], block [256].
// out[row] = weight[token_ids[row]]; weight [vocabulary, width], out [rows, width]. The row of an id that the table
// does not have becomes zero and *fault 1, which nothing but such an id touches.
template <class W, class T>
DEVICE void embed(const W* weight, const u32* token_ids, u32 vocabulary, int width, T* out, u32* fault) {
    u32 id = token_ids[blockIdx.x];
    out += (u64)blockIdx.x * width;
    bool known = id < vocabulary;
    if (!known && threadIdx.x == 0) *fault = 1;
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        if (known) load_chunk(weight + (u64)id * width, at, width, v);
        store_chunk(out, at, width, v);
    }
}

// Backend::gather_logit_rows. Grid [indices], block [256]. out[i] = x[indices[i]]; x [.., width].
template <class T>
DEVICE void gather_rows(const T* x, const u32* indices, int width, T* out) {
    x += (u64)indices[blockIdx.x] * width, out += (u64)blockIdx.x * width;
    float v[8];
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        load_chunk(x, at, width, v);
        store_chunk(out, at, width, v);
    }
}

// DeviceSteps::take_tokens. Grid [ceil(rows / 256)], block [256].
// token_ids[row] = chosen[sources[row]] where there is a source.
ENTRY __launch_bounds__(256) take_tokens(const u32* chosen, const u32* sources, int rows, u32* token_ids) {
    int row = blockIdx.x * 256 + threadIdx.x;
    if (row < rows && sources[row] != NO_SOURCE) token_ids[row] = chosen[sources[row]];
}

#define EMBED(W, T)                                                                                          \
    ENTRY __launch_bounds__(256) embed_##W##_##T(const W* weight, const u32* token_ids, u32 vocabulary,      \
                                                 int width, T* out, u32* fault) {                            \
        embed<W, T>(weight, token_ids, vocabulary, width, out, fault);                                       \
    }
EMBED(f32, f32)
EMBED(bf16, f32)
EMBED(bf16, bf16)

#define GATHER_ROWS(T)                                                                                       \
    ENTRY __launch_bounds__(256) gather_rows_##T(const T* x, const u32* indices, int width, T* out) {        \
        gather_rows<T>(x, indices, width, out);                                                              \
    }
GATHER_ROWS(f32)
GATHER_ROWS(bf16)
