// o_i = sum over j <= i of softmax_j(q_i . k_j / sqrt(head_dim)) v_j, causal inside each sequence, grouped KV heads:
// query head h reads KV head h / (heads / kv_heads) (spec/model.md 2.2).
//
// Keys are walked in blocks of 64 positions (on Hopper, with heads of 128, of 128) counted from the sequence's first
// token, with running statistics: per block the scores, their maximum, exp, the rescaling of what was summed before,
// then P * V. So a row's bits depend on its sequence alone, whether k and v come from this batch's rows or from pages,
// in any chunks.
//
// What a bf16 run rounds: the weights as they meet v (their sum is that of the unrounded ones), in backward also the
// gradients of the scores (on Hopper those for dk from weights so rounded), and what is stored. Scores, statistics and sums are f32.
#pragma once
#include "base/grid.h"
#include "ops/operator.h"
#include "ops/products.h"

namespace fulgur {

struct SoftmaxAttention {
  Tensor o;                 // [rows, heads, head_dim]
  Tensor q;                 // [rows, heads, head_dim], after rotary; may be a slice of qkv rows
  Tensor k = {}, v = {};    // [rows, kv_heads, head_dim]; absent when pages are given
  Tensor row_begin;         // i32 [sequences + 1]
  Tensor positions;         // i64 [rows]; without pages every sequence begins at position 0
  int64_t longest;          // rows of the longest sequence; sizes grids, nothing else
  Tensor page_table = {};   // i32 [sequences, pages], into kv_pages, which already hold these rows (store_kv)
  Tensor kv_pages = {};     // [pages, 2, kv_heads, 64, head_dim]
  Tensor log_sum_exp = {};  // wide [heads, rows], given when training: log of the sum of exp of the scaled scores
  // false: the keys of a sequence's only row may be summed in pieces, counted from its first token, and the pieces then
  // added: faster on a GPU where sequences are few and long, the same in any company, other bits than a chunk's. The
  // CPU twin always goes in order.
  bool in_order = true;

  int64_t kv_heads() const { return kv_pages ? kv_pages.dim(2) : k.dim(1); }
  auto operands() const {
    return std::tuple{out(o),        in(q),          in(k),        in(v),           in(row_begin),
                      in(positions), in(page_table), in(kv_pages), out(log_sum_exp)};
  }
  Products products() const { return softmax_products(q, kv_heads(), positions, longest); }
  int64_t bytes() const {  // of the pages: the positions that are known
    const double known = kv_pages ? known_positions(positions, row_begin, longest) : 0;
    return o.bytes() + q.bytes() + k.bytes() + v.bytes() + log_sum_exp.bytes() +
           int64_t(known) * 2 * kv_heads() * q.dim(2) * byte_size(q.dtype);
  }
  void check() const {
    expect(o.rank == 3 && o.same_shape(q) && o.dtype == q.dtype, "o matches q");
    expect(bool(k) == bool(v) && bool(k) != bool(kv_pages), "keys come from this batch or from pages");
    expect(bool(page_table) == bool(kv_pages), "pages come with their table");
    expect(!k || (k.is(q.dtype, {q.dim(0), k.dim(1), q.dim(2)}) && v.same_shape(k) && v.dtype == k.dtype),
           "k and v match q");
    expect(!kv_pages || kv_pages.is(q.dtype, {kv_pages.dim(0), 2, kv_pages.dim(2), kGrid, q.dim(2)}), "pages match q");
    expect(q.dim(1) % kv_heads() == 0, "KV heads divide the heads");
    expect(positions.is(DType::i64, {q.dim(0)}) && row_begin.dtype == DType::i32, "one position per row");
    expect(!log_sum_exp || log_sum_exp.is(wide(q.dtype), {q.dim(1), q.dim(0)}), "one log-sum-exp per head and row");
  }
};

struct SoftmaxAttentionBackward {
  Tensor dq;           // [rows, heads, head_dim], overwritten; the three may be slices of one tensor
  Tensor dk, dv;       // [rows, kv_heads, head_dim], overwritten: heads of a group in order, rows ascending
  Tensor d_o;          // [rows, heads, head_dim]
  Tensor q, k, v, o;   // as in forward
  Tensor log_sum_exp;  // wide [heads, rows]
  Tensor row_begin, positions;
  int64_t longest;

  auto operands() const {
    return std::tuple{out(dq), out(dk), out(dv),         in(d_o),       in(q),        in(k),
                      in(v),   in(o),   in(log_sum_exp), in(row_begin), in(positions)};
  }
  Products products() const { return softmax_backward_products(q, k.dim(1), positions, longest); }
  void check() const {
    expect(dq.same_shape(q) && d_o.same_shape(q) && o.same_shape(q), "gradients match q");
    expect(dk.same_shape(k) && dv.same_shape(k) && v.same_shape(k) && k.dim(0) == q.dim(0), "gradients match k and v");
    expect(q.dim(1) % k.dim(1) == 0, "KV heads divide the heads");
    expect(log_sum_exp.is(wide(q.dtype), {q.dim(1), q.dim(0)}), "one log-sum-exp per head and row");
  }
};

FULGUR_DECLARE_OPERATOR(softmax_attention, SoftmaxAttention)
FULGUR_DECLARE_OPERATOR(softmax_attention_backward, SoftmaxAttentionBackward)

}  // namespace fulgur
