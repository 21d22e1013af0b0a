// Lightning attention, 7 of 8 layers: silu(qkv) -> decayed linear attention -> gated norm -> output projection
// (spec/model.md 2.1).
#include "model/model.h"
#include "ops/gated_rms_norm.h"
#include "ops/lightning_attention.h"
#include "ops/linear.h"

namespace fulgur {
namespace {

// What forward may leave to backward of sequences that it may cut.
Tensor starts_of(const Exec& exec, const Batch& batch, DType type, Arena& keep) {
  if (exec.in_order || batch.slots || batch.longest <= LightningAttention::kSegment) return {};
  return keep.alloc(wide(type), {LightningAttention::start_count(batch.rows()), exec.config.heads, exec.config.head_dim,
                                 exec.config.head_dim});
}

// From the branch's output back to the attention's: the gradients of attended and gate take their places.
void norm_backward(Exec& exec, const LightningWeights& w, LightningWeights& grads, const LightningSaved& saved,
                   Tensor dy) {
  const ModelConfig& c = exec.config;
  const int64_t rows = dy.dim(0), inner = c.heads * c.head_dim;
  const Arena::Scope norm(exec.scratch);
  const Tensor attended = saved.attended.merged(1);
  const Tensor d_gated = exec.scratch.alloc(dy.dtype, {rows, inner});
  const Tensor products = exec.scratch.alloc(wide(dy.dtype), {c.heads, rows});
  linear_backward(exec.stream, {.dx = d_gated, .dw = grads.out.values, .dy = dy, .x = saved.gated, .w = w.out});
  gated_rms_norm_products(exec.stream,
                          {.products = products, .dy = d_gated, .x = attended, .gate = saved.gate, .weight = w.norm});
  gated_rms_norm_backward(exec.stream, {.dx = attended,
                                        .dgate = saved.gate,
                                        .dweight = grads.norm,
                                        .dy = d_gated,
                                        .x = attended,
                                        .gate = saved.gate,
                                        .weight = w.norm,
                                        .inverse_rms = saved.inverse_rms,
                                        .products = products,
                                        .whole_width = inner});
}

}  // namespace

void lightning_forward(Exec& exec, const LightningWeights& w, int layer, const Batch& batch, Tensor y, Tensor x,
                       LightningSaved* saved) {
  const ModelConfig& c = exec.config;
  const int64_t rows = batch.rows(), inner = c.heads * c.head_dim;
  const bool remembers = bool(batch.slots);
  Arena& keep = saved ? exec.tape : exec.scratch;
  const Tensor in = keep.alloc(x.dtype, {rows, 4 * inner}), gate = in.slice(1, 3 * inner, 4 * inner);
  const Tensor qkv = in.slice(1, 0, 3 * inner).split({c.heads, 3, c.head_dim});
  const Tensor attended = keep.alloc(x.dtype, {rows, c.heads, c.head_dim});
  const Tensor inverse_rms = saved ? keep.alloc(wide(x.dtype), {rows}) : Tensor{};
  const Tensor starts = saved ? starts_of(exec, batch, x.dtype, keep) : Tensor{};
  const Tensor gated = keep.alloc(x.dtype, {rows, inner});
  const Tensor squares = exec.scratch.alloc(wide(x.dtype), {c.heads, rows});

  linear(exec.stream, {.y = in, .x = x, .w = w.in});
  lightning_attention(exec.stream, {.o = attended,
                                    .qkv = qkv,
                                    .decay = w.decay,
                                    .row_begin = batch.row_begin,
                                    .positions = batch.positions,
                                    .longest = batch.longest,
                                    .slots = batch.slots,
                                    .state = remembers ? batch.state[size_t(layer)] : Tensor{},
                                    .tail = remembers ? batch.tail[size_t(layer)] : Tensor{},
                                    .squares = squares,
                                    .in_order = exec.in_order,
                                    .starts = starts});
  gated_rms_norm(exec.stream, {.y = gated,
                               .x = attended.merged(1),
                               .gate = gate,
                               .weight = w.norm,
                               .squares = squares,
                               .whole_width = inner,
                               .eps = c.lightning_norm_eps,
                               .inverse_rms = inverse_rms});
  linear(exec.stream, {.y = y, .x = gated, .w = w.out});

  if (saved) *saved = {x, qkv, attended, gate, gated, inverse_rms, starts};
}

void lightning_backward(Exec& exec, const LightningWeights& w, LightningWeights& grads, const Batch& batch,
                        const LightningSaved& saved, Tensor dx, Tensor dy) {
  const Tensor d_attended = saved.attended, d_gate = saved.gate;  // gradients in the place of what nobody reads again
  norm_backward(exec, w, grads, saved, dy);
  const Tensor d_qkv = exec.scratch.alloc(dy.dtype, {batch.rows(), exec.config.heads, 3, exec.config.head_dim});
  lightning_attention_backward(exec.stream, {.dqkv = d_qkv,
                                             .d_o = d_attended,
                                             .qkv = saved.qkv,
                                             .decay = w.decay,
                                             .row_begin = batch.row_begin,
                                             .positions = batch.positions,
                                             .longest = batch.longest,
                                             .in_order = exec.in_order,
                                             .starts = saved.starts});
  linear_backward(exec.stream, {.dx = dx, .dw = grads.qkv.values, .dy = d_qkv.merged(1), .x = saved.x, .w = w.qkv});
  linear_backward(exec.stream,
                  {.dx = dx, .dw = grads.gate.values, .dy = d_gate, .x = saved.x, .w = w.gate, .dx_store = Store::add});
}

}  // namespace fulgur
