// The network between tokens and hidden rows: each layer is two halves of norm, branch and residual (spec/model.md 2);
// backward is the halves in reverse.
#include "model/model.h"

#include "device/profiler_range.h"
#include "ops/blend.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"
#include "ops/take_rows.h"

namespace fulgur {
namespace {

Tensor like(Arena& arena, Tensor t) { return arena.alloc(t.dtype, {t.dim(0), t.dim(1)}); }

// inverse_rms is given when training; then it and the result stay on the tape.
Tensor normalised(Exec& exec, Tensor x, Tensor weight, Tensor* inverse_rms) {
  Arena& keep = inverse_rms ? exec.tape : exec.scratch;
  const Tensor y = like(keep, x);
  if (inverse_rms) *inverse_rms = keep.alloc(wide(x.dtype), {x.dim(0)});
  rms_norm(exec.stream, {.y = y,
                         .x = x,
                         .weight = weight,
                         .eps = exec.config.norm_eps,
                         .inverse_rms = inverse_rms ? *inverse_rms : Tensor{}});
  return y;
}

// Half a layer: out = alpha * carried + beta * branch(x) with x = norm(in). The carried tensor is x itself where the
// model is post-norm, as published. out may be in.
template <class Branch>
void half_forward(Exec& exec, Residual r, Tensor out, Tensor in, Tensor weight, Tensor* inverse_rms, Branch&& branch) {
  const Tensor x = normalised(exec, in, weight, inverse_rms), y = like(exec.scratch, in);
  branch(y, x);
  blend(exec.stream, {.y = out, .a = exec.config.post_norm ? x : in, .alpha = r.alpha, .b = y, .beta = r.beta});
}

// gradient: of out, replaced by that of in. norm: all but its dx and dy.
template <class BranchBackward>
void half_backward(Exec& exec, Residual r, Tensor gradient, RmsNormBackward norm, BranchBackward&& branch_backward) {
  const Arena::Scope half(exec.scratch);
  const bool post = exec.config.post_norm;
  const Tensor dx = like(exec.scratch, gradient);
  Tensor dy = gradient;
  if (r.beta != 1) {
    dy = like(exec.scratch, gradient);
    blend(exec.stream, {.y = dy, .a = gradient, .alpha = r.beta});
  }
  branch_backward(dx, dy);
  norm.dx = post ? gradient : dx;
  norm.dy = dx;
  if (post) norm.carried = gradient, norm.alpha = r.alpha;
  rms_norm_backward(exec.stream, norm);
  if (!post) blend(exec.stream, {.y = gradient, .a = dx, .alpha = 1, .b = gradient, .beta = r.alpha});
}

Residual attention_residual(const ModelConfig& c, const LayerWeights& w) {
  return std::holds_alternative<LightningWeights>(w.attention) ? c.lightning_residual : c.softmax_residual;
}

void layer_forward(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in,
                   LayerSaved* saved) {
  Arena& keep = saved ? exec.tape : exec.scratch;
  const Tensor middle = like(keep, in);
  half_forward(exec, attention_residual(exec.config, w), middle, in, w.attention_norm,
               saved ? &saved->attention_inverse_rms : nullptr, [&](Tensor y, Tensor x) {
                 if (const auto* a = std::get_if<LightningWeights>(&w.attention))
                   lightning_forward(exec, *a, layer, batch, y, x,
                                     saved ? &saved->attention.emplace<LightningSaved>() : nullptr);
                 else
                   softmax_forward(exec, std::get<SoftmaxWeights>(w.attention), layer, batch, y, x,
                                   saved ? &saved->attention.emplace<SoftmaxSaved>() : nullptr);
               });
  half_forward(
      exec, exec.config.moe_residual, out, middle, w.moe_norm, saved ? &saved->moe_inverse_rms : nullptr,
      [&](Tensor y, Tensor x) { moe_forward(exec, w.moe, layer, batch, y, x, saved ? &saved->moe : nullptr); });
  if (saved) saved->middle = middle;
}

// The same numbers, in training too, with nothing kept but the output.
void forward_and_forget(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in) {
  Exec forgetting{exec.stream, exec.scratch, exec.scratch, exec.config, exec.in_order};
  LayerSaved forgotten;
  layer_forward(forgetting, w, layer, batch, out, in, &forgotten);
}

// Fills what the layer's forward left nothing of but the input.
void forward_again(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, LayerSaved& saved) {
  const Arena::Scope forward(exec.scratch);
  layer_forward(exec, w, layer, batch, like(exec.scratch, saved.input), saved.input, &saved);
}

void layer_backward(Exec& exec, const LayerWeights& w, LayerWeights& grads, int layer, const Batch& batch,
                    const LayerSaved& saved, const Balance& balance, Tensor gradient) {
  half_backward(
      exec, exec.config.moe_residual, gradient,
      {.dx = {},
       .dweight = grads.moe_norm,
       .dy = {},
       .x = saved.middle,
       .weight = w.moe_norm,
       .inverse_rms = saved.moe_inverse_rms},
      [&](Tensor dx, Tensor dy) { moe_backward(exec, w.moe, grads.moe, layer, batch, saved.moe, balance, dx, dy); });
  half_backward(exec, attention_residual(exec.config, w), gradient,
                {.dx = {},
                 .dweight = grads.attention_norm,
                 .dy = {},
                 .x = saved.input,
                 .weight = w.attention_norm,
                 .inverse_rms = saved.attention_inverse_rms},
                [&](Tensor dx, Tensor dy) {
                  if (const auto* a = std::get_if<LightningWeights>(&w.attention))
                    lightning_backward(exec, *a, std::get<LightningWeights>(grads.attention), batch,
                                       std::get<LightningSaved>(saved.attention), dx, dy);
                  else
                    softmax_backward(exec, std::get<SoftmaxWeights>(w.attention),
                                     std::get<SoftmaxWeights>(grads.attention), batch,
                                     std::get<SoftmaxSaved>(saved.attention), dx, dy);
                });
}

}  // namespace

Tensor forward(Exec& exec, const ModelWeights& w, const Batch& batch, Saved* saved) {
  const ProfilerRange phase("forward");
  Arena& keep = saved ? exec.tape : exec.scratch;
  Tensor h = keep.alloc(w.embedding.values.dtype, {batch.rows(), exec.config.width});
  embedding(exec.stream, {.y = h, .tokens = batch.tokens, .table = w.embedding});

  if (saved) saved->layers.resize(w.layers.size());
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const ProfilerRange range("layer", int64_t(i));
    const Arena::Scope layer(exec.scratch);
    const Tensor in = h;
    if (saved) saved->layers[i].input = in, h = like(exec.tape, in);
    if (saved && saved->keep == Keep::inputs) forward_and_forget(exec, w.layers[i], int(i), batch, h, in);
    else layer_forward(exec, w.layers[i], int(i), batch, h, in, saved ? &saved->layers[i] : nullptr);
  }

  Tensor last = h;
  if (batch.head_rows) {
    last = keep.alloc(h.dtype, {batch.outputs(), exec.config.width});
    take_rows(exec.stream, {.y = last, .x = h, .rows = batch.head_rows});
  }
  if (saved) saved->last = last;
  return normalised(exec, last, w.final_norm, saved ? &saved->final_inverse_rms : nullptr);
}

void backward(Exec& exec, const ModelWeights& w, ModelWeights& grads, const Batch& batch, const Saved& saved,
              const Balance& balance, Tensor d_hidden) {
  const ProfilerRange phase("backward");
  const Arena::Scope all(exec.scratch);
  Tensor gradient = like(exec.scratch, d_hidden);
  rms_norm_backward(exec.stream, {.dx = gradient,
                                  .dweight = grads.final_norm,
                                  .dy = d_hidden,
                                  .x = saved.last,
                                  .weight = w.final_norm,
                                  .inverse_rms = saved.final_inverse_rms});
  if (batch.head_rows) {
    const Tensor d_last = gradient;
    gradient = exec.scratch.alloc(d_hidden.dtype, {batch.rows(), exec.config.width});
    take_rows_backward(exec.stream, {.dx = gradient, .dy = d_last, .rows = batch.head_rows});
  }
  for (size_t i = w.layers.size(); i-- > 0;) {
    const ProfilerRange range("backward of layer", int64_t(i));
    const Arena::Scope layer(exec.tape);
    LayerSaved kept = saved.layers[i];
    if (saved.keep == Keep::inputs) forward_again(exec, w.layers[i], int(i), batch, kept);
    layer_backward(exec, w.layers[i], grads.layers[i], int(i), batch, kept, balance, gradient);
  }
  embedding_backward(exec.stream, {.dtable = grads.embedding.values, .dy = gradient, .tokens = batch.tokens});
}

}  // namespace fulgur
