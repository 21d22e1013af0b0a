// S_t = exp(-decay) * S_(t-1) + k_t^T v_t and o_t = q_t * S_t, per head; q, k and v pass through SiLU first
// (spec/model.md 2.1, 8.9).
//
// What is stored of a sequence is its sum S at the last multiple of 64 tokens (`state`) and the k and v rows since
// (`tail`). The state of a sequence that begins at position 0 need not be read: it is zero. A row is q times the
// decayed state plus its block's rows in order, whoever computes it: prefill in any chunks, decode, training. So its
// bits depend on the sequence alone, and a kernel may not be chosen by the batch.
//
// What a bf16 run rounds (spec/model.md 8.9): q, k and v after SiLU, decayed k, the decayed q k^T, the copy of S that
// is multiplied, and o as it is stored. S, sums and squares are f32.
#pragma once
#include "base/grid.h"
#include "ops/operator.h"
#include "ops/products.h"

namespace fulgur {

struct LightningAttention {
  Tensor o;             // [rows, heads, head_dim]
  Tensor qkv;           // [rows, heads, 3, head_dim], before SiLU
  Tensor decay;         // wide [heads], positive
  Tensor row_begin;     // i32 [sequences + 1]
  Tensor positions;     // i64 [rows]; positions % 64 of a sequence's first row: how many rows its tail holds
  int64_t longest;      // rows of the longest sequence; sizes grids, nothing else
  Tensor slots = {};    // i32 [sequences]; absent: every sequence starts at position 0 and leaves nothing behind
  Tensor state = {};    // wide [slots, heads, head_dim, head_dim], rows k, columns v; replaced
  Tensor tail = {};     // [slots, heads, 2, 64, head_dim]: k, v after SiLU, not decayed; replaced. On CUDA no launch
                        // since the last `embedding` may have written slots, positions, state or tail: decode reads
                        // them ahead (ops/embedding_cuda.cu)
  Tensor squares = {};  // wide [heads, rows]: sum of o^2 of each head, for the norm that follows and spans all heads
  // false: where heads are few, a GPU may cut a sequence with more rows in this call than a segment has at multiples of
  // that many of its positions and sum the pieces side by side. Then its bits depend on the chunks, within the bounds
  // of bf16; in order they do not. The CPU always goes in order.
  bool in_order = true;
  // Training, without slots: what backward need not sum up again. Wide [start_count(...), heads, head_dim, head_dim]:
  // where a sequence is cut before row r of the call, S there, as number r / 4,096; the rest is left alone.
  Tensor starts = {};
  static constexpr int64_t kSegment = 4096;        // tokens: in training, whose states are kept for backward
  static constexpr int64_t kPromptSegment = 1024;  // with slots: a prompt alone is to fill the GPU
  // Without slots: starts lie at least kSegment rows apart, whatever the sequences, for their first rows need none.
  static int64_t start_count(int64_t rows) { return rows / kSegment + 1; }

  auto operands() const {
    return std::tuple{out(o),    in(qkv),      in(decay),   in(row_begin), in(positions),
                      in(slots), inout(state), inout(tail), out(squares),  out(starts)};
  }
  Products products() const { return lightning_products(o, longest); }
  int64_t bytes() const {  // of what is remembered: the state, replaced where a block ends, and half of the tail
    const int64_t sequences = slots ? slots.dim(0) : 0, blocks = longest >= kGrid ? 2 : 1;
    return o.bytes() + qkv.bytes() + squares.bytes() +
           (sequences ? sequences * (state.at(0).bytes() * blocks + tail.at(0).bytes() / 2) : 0);
  }
  void check() const {
    expect(o.rank == 3 && qkv.is(o.dtype, {o.dim(0), o.dim(1), 3, o.dim(2)}), "qkv matches o");
    expect(decay.is(wide(o.dtype), {o.dim(1)}), "one decay per head");
    expect(positions.is(DType::i64, {o.dim(0)}) && row_begin.dtype == DType::i32, "one position per row");
    expect(bool(slots) == bool(state) && bool(slots) == bool(tail), "slots, state and tail are given together");
    expect(!state || state.is(wide(o.dtype), {state.dim(0), o.dim(1), o.dim(2), o.dim(2)}),
           "the state is wide and matches o");
    expect(!tail || tail.is(o.dtype, {state.dim(0), o.dim(1), 2, kGrid, o.dim(2)}),
           "the tail holds one block of the grid");
    expect(!squares || squares.is(wide(o.dtype), {o.dim(1), o.dim(0)}), "one sum of squares per head and row");
    expect(!starts || (!slots && starts.is(wide(o.dtype), {start_count(o.dim(0)), o.dim(1), o.dim(2), o.dim(2)})),
           "starts match o and its sequences, which have no slots");
  }
};

// Two sweeps: dq forward in time with the state, dk and dv backward in time with the state's gradient. Calls may divide
// a sequence anywhere; in bf16, whose products add several rows at once, where equal bits are wanted at multiples
// of 64.
struct LightningAttentionBackward {
  Tensor dqkv;                         // [rows, heads, 3, head_dim], overwritten
  Tensor d_o;                          // [rows, heads, head_dim]
  Tensor qkv;                          // [rows, heads, 3, head_dim], before SiLU
  Tensor decay, row_begin, positions;  // as in LightningAttention
  int64_t longest;
  Tensor slots = {}, state = {}, tail = {};  // what forward started from
  Tensor d_state = {};  // as state: gradient of what forward left behind, replaced by that of what it started from
  Tensor d_tail = {};   // wide, as tail; rows of the tail that do not count are left alone
  // Whether sums over a sequence run block after block, so that cuts change no bit; else a twin may add up stretches of
  // a long sequence by themselves, where a sequence's own rows and the heads decide.
  bool in_order = true;
  Tensor starts = {};  // what forward left there with the same in_order; absent: summed up here

  auto operands() const {
    return std::tuple{out(dqkv), in(d_o),   in(qkv),  in(decay),      in(row_begin), in(positions),
                      in(slots), in(state), in(tail), inout(d_state), inout(d_tail), in(starts)};
  }
  Products products() const { return lightning_backward_products(d_o, longest); }
  void check() const {
    expect(dqkv.same_shape(qkv) && dqkv.dtype == qkv.dtype, "the gradient matches qkv");
    expect(qkv.rank == 4 && d_o.is(qkv.dtype, {qkv.dim(0), qkv.dim(1), qkv.dim(3)}), "qkv matches d_o");
    expect(decay.is(wide(qkv.dtype), {qkv.dim(1)}), "one decay per head");
    expect(positions.is(DType::i64, {qkv.dim(0)}) && row_begin.dtype == DType::i32, "one position per row");
    expect(bool(slots) == bool(state) && bool(slots) == bool(tail) && bool(slots) == bool(d_state) &&
               bool(slots) == bool(d_tail),
           "slots, state, tail and their gradients are given together");
    expect(!d_state || d_state.same_shape(state), "the state's gradient matches it");
    expect(!d_tail || (d_tail.same_shape(tail) && d_tail.dtype == wide(tail.dtype)),
           "the tail's gradient is wide and matches it");
    expect(!starts || (!slots && starts.is(wide(qkv.dtype), {LightningAttention::start_count(qkv.dim(0)), qkv.dim(1),
                                                             qkv.dim(3), qkv.dim(3)})),
           "starts match qkv and its sequences, which have no slots");
  }
};

FULGUR_DECLARE_OPERATOR(lightning_attention, LightningAttention)
FULGUR_DECLARE_OPERATOR(lightning_attention_backward, LightningAttentionBackward)

}  // namespace fulgur
