// Softmax attention, the eighth layer: qkv -> rotary -> causal attention with grouped KV heads -> output projection
// (spec/model.md 2.2).
#include "model/model.h"
#include "ops/linear.h"
#include "ops/rotary.h"
#include "ops/softmax_attention.h"
#include "ops/store_kv.h"

namespace fulgur {
namespace {

// The heads of a qkv row: q, then k, then v. Rotary turns q and k.
struct Parts {
  Tensor q, k, v, turned;
};

Parts parts_of(const ModelConfig& c, Tensor qkv) {
  const int64_t keys = c.heads + c.kv_heads;
  return {qkv.slice(1, 0, c.heads), qkv.slice(1, c.heads, keys), qkv.slice(1, keys, keys + c.kv_heads),
          qkv.slice(1, 0, keys)};
}

}  // namespace

void softmax_forward(Exec& exec, const SoftmaxWeights& w, int layer, const Batch& batch, Tensor y, Tensor x,
                     SoftmaxSaved* saved) {
  const ModelConfig& c = exec.config;
  const int64_t rows = batch.rows();
  Arena& keep = saved ? exec.tape : exec.scratch;
  const Tensor qkv = keep.alloc(x.dtype, {rows, c.heads + 2 * c.kv_heads, c.head_dim});
  const Tensor attended = keep.alloc(x.dtype, {rows, c.heads, c.head_dim});
  const Tensor log_sum_exp = saved ? keep.alloc(wide(x.dtype), {c.heads, rows}) : Tensor{};
  const auto [q, k, v, turned] = parts_of(c, qkv);

  linear(exec.stream, {.y = qkv.merged(1), .x = x, .w = w.qkv});
  rotary(exec.stream, {.x = turned, .positions = batch.positions, .rotary_dim = c.rotary_dim, .theta = c.rope_theta});
  SoftmaxAttention attention{.o = attended,
                             .q = q,
                             .k = k,
                             .v = v,
                             .row_begin = batch.row_begin,
                             .positions = batch.positions,
                             .longest = batch.longest,
                             .log_sum_exp = log_sum_exp,
                             .in_order = exec.in_order};
  if (batch.page_table) {
    const Tensor pages = batch.kv_pages[size_t(layer)];
    store_kv(exec.stream, {.kv_pages = pages,
                           .k = k,
                           .v = v,
                           .row_begin = batch.row_begin,
                           .positions = batch.positions,
                           .page_table = batch.page_table});
    attention.k = attention.v = {};
    attention.page_table = batch.page_table, attention.kv_pages = pages;
  }
  softmax_attention(exec.stream, attention);
  linear(exec.stream, {.y = y, .x = attended.merged(1), .w = w.out});

  if (saved) *saved = {x, qkv, attended, log_sum_exp};
}

void softmax_backward(Exec& exec, const SoftmaxWeights& w, SoftmaxWeights& grads, const Batch& batch,
                      const SoftmaxSaved& saved, Tensor dx, Tensor dy) {
  const ModelConfig& c = exec.config;
  const int64_t rows = batch.rows();
  const Tensor d_attended = exec.scratch.alloc(dy.dtype, {rows, c.heads, c.head_dim});
  const Tensor d_qkv = exec.scratch.alloc(dy.dtype, {rows, c.heads + 2 * c.kv_heads, c.head_dim});
  const auto [q, k, v, turned] = parts_of(c, saved.qkv);
  const auto [dq, dk, dv, d_turned] = parts_of(c, d_qkv);

  linear_backward(
      exec.stream,
      {.dx = d_attended.merged(1), .dw = grads.out.values, .dy = dy, .x = saved.attended.merged(1), .w = w.out});
  softmax_attention_backward(exec.stream, {.dq = dq,
                                           .dk = dk,
                                           .dv = dv,
                                           .d_o = d_attended,
                                           .q = q,
                                           .k = k,
                                           .v = v,
                                           .o = saved.attended,
                                           .log_sum_exp = saved.log_sum_exp,
                                           .row_begin = batch.row_begin,
                                           .positions = batch.positions,
                                           .longest = batch.longest});
  rotary(exec.stream, {.x = d_turned,
                       .positions = batch.positions,
                       .rotary_dim = c.rotary_dim,
                       .theta = c.rope_theta,
                       .turn = Turn::back});
  linear_backward(exec.stream, {.dx = dx, .dw = grads.qkv.values, .dy = d_qkv.merged(1), .x = saved.x, .w = w.qkv});
}

}  // namespace fulgur
