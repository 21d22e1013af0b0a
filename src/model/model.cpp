// The network between tokens and hidden rows: each layer is two halves of norm, branch and residual (spec/model.md 2);
// backward is the halves in reverse.
#include "model/model.h"

#include <algorithm>
#include <numeric>

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
// model is post-norm, as published. out is not in: it holds the branch's y first.
template <class Branch>
void half_forward(Exec& exec, Residual r, Tensor out, Tensor in, Tensor weight, Tensor* inverse_rms, Branch&& branch) {
  const Arena::Scope half(exec.scratch);
  const Tensor x = normalised(exec, in, weight, inverse_rms);
  branch(out, x);
  blend(exec.stream, {.y = out, .a = exec.config.post_norm ? x : in, .alpha = r.alpha, .b = out, .beta = r.beta});
}

// gradient: of out, replaced by that of in. dx: memory for the gradient of x. norm: all but its dx and dy.
template <class BranchBackward>
void half_backward(Exec& exec, Residual r, Tensor gradient, Tensor dx, RmsNormBackward norm,
                   BranchBackward&& branch_backward) {
  const Arena::Scope half(exec.scratch);
  const bool post = exec.config.post_norm;
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

// saved: what backward reads of the half, or null.
void attention_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in,
                    LayerSaved* saved) {
  half_forward(exec, attention_residual(exec.config, w), out, in, w.attention_norm,
               saved ? &saved->attention_inverse_rms : nullptr, [&](Tensor y, Tensor x) {
                 if (const auto* a = std::get_if<LightningWeights>(&w.attention))
                   lightning_forward(exec, *a, layer, batch, y, x,
                                     saved ? &saved->attention.emplace<LightningSaved>() : nullptr);
                 else
                   softmax_forward(exec, std::get<SoftmaxWeights>(w.attention), layer, batch, y, x,
                                   saved ? &saved->attention.emplace<SoftmaxSaved>() : nullptr);
               });
}

void moe_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in,
              LayerSaved* saved) {
  half_forward(
      exec, exec.config.moe_residual, out, in, w.moe_norm, saved ? &saved->moe_inverse_rms : nullptr,
      [&](Tensor y, Tensor x) { moe_forward(exec, w.moe, layer, batch, y, x, saved ? &saved->moe : nullptr); });
}

// gradient: of the layer's output, replaced by that of its middle.
void moe_half_backward(Exec& exec, const LayerWeights& w, LayerWeights& grads, int layer, const Batch& batch,
                       const LayerSaved& saved, const Balance& balance, Tensor gradient) {
  const Arena::Scope half(exec.scratch);
  half_backward(
      exec, exec.config.moe_residual, gradient, like(exec.scratch, gradient),
      {.dx = {},
       .dweight = grads.moe_norm,
       .dy = {},
       .x = saved.middle,
       .weight = w.moe_norm,
       .inverse_rms = saved.moe_inverse_rms},
      [&](Tensor dx, Tensor dy) { moe_backward(exec, w.moe, grads.moe, layer, batch, saved.moe, balance, dx, dy); });
}

// The middle's values are not read again: the gradient of the branch's input takes their place.
void attention_half_backward(Exec& exec, const LayerWeights& w, LayerWeights& grads, const Batch& batch,
                             const LayerSaved& saved, Tensor gradient) {
  half_backward(exec, attention_residual(exec.config, w), gradient, saved.middle,
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

// Some rows of a batch, in whole windows, as the experts of one layer see them. It lives beside the batch.
class PartOfBatch {
 public:
  PartOfBatch(const Batch& whole, int layer, int64_t begin, int64_t end) : batch_(whole) {
    batch_.tokens = whole.tokens.rows(begin, end);
    if (whole.choices) batch_.choices = whole.choices.slice(1, begin / whole.window, end / whole.window);
    if (whole.routing == Batch::Routing::own) return;
    experts_.resize(size_t(layer) + 1), weights_.resize(size_t(layer) + 1);
    experts_.back() = whole.experts[size_t(layer)].rows(begin, end), batch_.experts = experts_;
    weights_.back() = whole.weights[size_t(layer)].rows(begin, end), batch_.weights = weights_;
  }
  PartOfBatch(const PartOfBatch&) = delete;
  PartOfBatch& operator=(const PartOfBatch&) = delete;
  const Batch& batch() const { return batch_; }

 private:
  Batch batch_;
  std::vector<Tensor> experts_, weights_;
};

// visit(begin, end) of the parts that a layer's experts take one after the other: whole windows and blocks.
template <class Visit>
void for_moe_rows(const Exec& exec, const Batch& batch, int64_t row_block, Visit&& visit) {
  const int64_t unit = std::lcm(std::max<int64_t>(batch.window, 1), std::max<int64_t>(row_block, 1));
  const int64_t step = std::max<int64_t>(exec.moe_rows / unit, 1) * unit;
  for (int64_t begin = 0; begin < batch.rows(); begin += step) visit(begin, std::min(begin + step, batch.rows()));
}

// A layer that leaves nothing but its output. training: the same calls as where everything is kept, and what they keep
// for a while lies on the tape, which backward needs more of.
void layer_forward(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in,
                   bool training) {
  Exec forgetting = exec.within(training ? exec.tape : exec.scratch);
  const Arena::Scope all(forgetting.scratch);
  const Tensor middle = like(forgetting.scratch, in);
  LayerSaved forgotten;
  LayerSaved* const saved = training ? &forgotten : nullptr;
  attention_half(forgetting, w, layer, batch, middle, in, saved);
  for_moe_rows(exec, batch, 0, [&](int64_t begin, int64_t end) {
    const PartOfBatch part(batch, layer, begin, end);
    moe_half(forgetting, w, layer, part.batch(), out.rows(begin, end), middle.rows(begin, end), saved);
  });
}

// saved: all that backward reads, on the tape.
void layer_forward_keeping(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor out, Tensor in,
                           LayerSaved& saved) {
  saved.middle = like(exec.tape, in);
  attention_half(exec, w, layer, batch, saved.middle, in, &saved);
  moe_half(exec, w, layer, batch, out, saved.middle, &saved);
}

// Of a layer that left nothing but its input: its forward runs again, of the experts a part at a time.
void layer_backward_again(Exec& exec, const LayerWeights& w, LayerWeights& grads, int layer, const Batch& batch,
                          LayerSaved saved, const Balance& balance, Tensor gradient) {
  saved.middle = like(exec.tape, saved.input);
  attention_half(exec, w, layer, batch, saved.middle, saved.input, &saved);
  Balance of_part = balance;
  for_moe_rows(exec, batch, balance.row_block, [&](int64_t begin, int64_t end) {
    const Arena::Scope rows(exec.tape);
    const PartOfBatch part(batch, layer, begin, end);
    LayerSaved again;
    again.middle = saved.middle.rows(begin, end);
    {
      const Arena::Scope output(exec.scratch);  // which nobody asks for
      moe_half(exec, w, layer, part.batch(), like(exec.scratch, again.middle), again.middle, &again);
    }
    moe_half_backward(exec, w, grads, layer, part.batch(), again, of_part, gradient.rows(begin, end));
    of_part.first = false;
  });
  attention_half_backward(exec, w, grads, batch, saved, gradient);
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
    if (saved && saved->keep == Keep::everything)
      layer_forward_keeping(exec, w.layers[i], int(i), batch, h, in, saved->layers[i]);
    else layer_forward(exec, w.layers[i], int(i), batch, h, in, saved != nullptr);
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
  Tensor gradient = d_hidden;
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
    const LayerSaved& kept = saved.layers[i];
    if (saved.keep == Keep::inputs) {
      layer_backward_again(exec, w.layers[i], grads.layers[i], int(i), batch, kept, balance, gradient);
    } else {
      moe_half_backward(exec, w.layers[i], grads.layers[i], int(i), batch, kept, balance, gradient);
      attention_half_backward(exec, w.layers[i], grads.layers[i], batch, kept, gradient);
    }
  }
  embedding_backward(exec.stream, {.dtable = grads.embedding.values, .dy = gradient, .tokens = batch.tokens});
}

}  // namespace fulgur
