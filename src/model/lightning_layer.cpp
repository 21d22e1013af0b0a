// Lightning attention, 7 of 8 layers: silu(qkv) -> decayed linear attention -> gated norm -> output projection
// (spec/model.md 2.1).
#include "model/model.h"
#include "ops/gated_norm_linear.h"
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

// From the branch's output back to the attention's, whose gradient takes its place, and the gate's. d_gated: memory.
void norm_backward(Exec& exec, const LightningWeights& w, LightningWeights& grads, const LightningSaved& saved,
                   Tensor d_gate, Tensor d_gated, Tensor dy) {
  const ModelConfig& c = exec.config;
  const Arena::Scope norm(exec.scratch);
  const Tensor attended = saved.attended.merged(1);
  const Tensor products = exec.scratch.alloc(wide(dy.dtype), {c.heads, dy.dim(0)});
  linear_backward(exec.stream, {.dx = d_gated, .dw = grads.out.values, .dy = dy, .x = saved.gated, .w = w.out});
  gated_rms_norm_products(exec.stream,
                          {.products = products, .dy = d_gated, .x = attended, .gate = saved.gate, .weight = w.norm});
  gated_rms_norm_backward(exec.stream, {.dx = attended,
                                        .dgate = d_gate,
                                        .dweight = grads.norm,
                                        .dy = d_gated,
                                        .x = attended,
                                        .gate = saved.gate,
                                        .weight = w.norm,
                                        .inverse_rms = saved.inverse_rms,
                                        .products = products,
                                        .whole_width = c.heads * c.head_dim});
}

// What the product with w.in writes: [rows, 4 * inner], rows of qkv of every head, then of the gate.
struct InRows {
  Tensor all, qkv, gate;
  InRows(const ModelConfig& c, Tensor all)
      : all(all),
        qkv(all.slice(1, 0, 3 * c.heads * c.head_dim).split({c.heads, 3, c.head_dim})),
        gate(all.slice(1, 3 * c.heads * c.head_dim, 4 * c.heads * c.head_dim)) {}
};

}  // namespace

void lightning_forward(Exec& exec, const LightningWeights& w, int layer, const Batch& batch, Tensor y, Tensor x,
                       LightningSaved* saved) {
  const ModelConfig& c = exec.config;
  const int64_t rows = batch.rows(), inner = c.heads * c.head_dim;
  const bool remembers = bool(batch.slots);
  Arena& keep = saved ? exec.tape : exec.scratch;
  const InRows in(c, keep.alloc(x.dtype, {rows, 4 * inner}));
  const Tensor attended = keep.alloc(x.dtype, {rows, c.heads, c.head_dim});
  const Tensor inverse_rms = saved ? keep.alloc(wide(x.dtype), {rows}) : Tensor{};
  const Tensor starts = saved ? starts_of(exec, batch, x.dtype, keep) : Tensor{};
  const Tensor gated = keep.alloc(x.dtype, {rows, inner});
  const Tensor squares = exec.scratch.alloc(wide(x.dtype), {c.heads, rows});

  linear(exec.stream, {.y = in.all, .x = x, .w = w.in});
  lightning_attention(exec.stream, {.o = attended,
                                    .qkv = in.qkv,
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
  gated_norm_linear(exec.stream, {.y = y,
                                  .gated = gated,
                                  .x = attended.merged(1),
                                  .gate = in.gate,
                                  .weight = w.norm,
                                  .squares = squares,
                                  .whole_width = inner,
                                  .eps = c.lightning_norm_eps,
                                  .inverse_rms = inverse_rms,
                                  .w = w.out,
                                  .kept = saved != nullptr});

  if (saved) *saved = {x, in.qkv, attended, in.gate, gated, inverse_rms, starts};
}

void lightning_backward(Exec& exec, const LightningWeights& w, LightningWeights& grads, const Batch& batch,
                        const LightningSaved& saved, Tensor dx, Tensor dy) {
  const ModelConfig& c = exec.config;
  const int64_t inner = c.heads * c.head_dim;
  const InRows d_in(c, exec.scratch.alloc(dy.dtype, {batch.rows(), 4 * inner}));
  const Tensor d_gated = d_in.all.slice(1, 0, inner);  // until d_in.qkv is written
  norm_backward(exec, w, grads, saved, d_in.gate, d_gated, dy);
  lightning_attention_backward(exec.stream, {.dqkv = d_in.qkv,
                                             .d_o = saved.attended,  // the gradient by now
                                             .qkv = saved.qkv,
                                             .decay = w.decay,
                                             .row_begin = batch.row_begin,
                                             .positions = batch.positions,
                                             .longest = batch.longest,
                                             .in_order = exec.in_order,
                                             .starts = saved.starts});
  linear_backward(exec.stream, {.dx = dx, .dw = grads.in.values, .dy = d_in.all, .x = saved.x, .w = w.in});
}

}  // namespace fulgur
