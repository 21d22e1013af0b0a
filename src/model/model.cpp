// The network between tokens and hidden rows: each layer is two halves of norm, branch and residual (spec/model.md 2);
// backward is the halves in reverse.
#include "model/model.h"

#include <algorithm>
#include <numeric>

#include "device/profiler_range.h"
#include "ops/blend.h"
#include "ops/embedding.h"
#include "ops/residual_norm.h"
#include "ops/rms_norm.h"
#include "ops/take_rows.h"

namespace fulgur {
namespace {

Tensor like(Arena& arena, Tensor t) { return arena.alloc(t.dtype, {t.dim(0), t.dim(1)}); }

// The residual stream between two halves. Not all of it is wanted everywhere: what is absent is not written.
struct Flow {
  Tensor sum;          // what the norm reads; carried on where the model is pre-norm
  Tensor x;            // its norm: what the branch reads; carried on where the model is post-norm, as published
  Tensor inverse_rms;  // of the norm, when training

  Flow rows(int64_t begin, int64_t end) const {
    const auto part = [&](const Tensor& t) { return t ? t.rows(begin, end) : t; };
    return {part(sum), part(x), part(inverse_rms)};
  }
};

// Room for a flow. Only backward and a pre-norm model ask for the sum once its norm is known.
Flow flow_in(Arena& keep, const Exec& exec, DType type, int64_t rows, bool training) {
  const auto room = [&] { return keep.alloc(type, {rows, exec.config.width}); };
  return {.sum = training || !exec.config.post_norm ? room() : Tensor{},
          .x = room(),
          .inverse_rms = training ? keep.alloc(wide(type), {rows}) : Tensor{}};
}

// flow.x = norm of sum, which may be flow.x.
void normalise(Exec& exec, const Flow& flow, Tensor sum, Tensor weight) {
  rms_norm(exec.stream,
           {.y = flow.x, .x = sum, .weight = weight, .eps = exec.config.norm_eps, .inverse_rms = flow.inverse_rms});
}

// The end of half a layer: out.sum = alpha * carried + beta * branch, out.x its norm. out.sum may be in.sum, and out.x
// the branch.
void join(Exec& exec, Residual r, const Flow& out, const Flow& in, const BranchOutput& branch, Tensor weight) {
  residual_norm(exec.stream, {.y = out.x,
                              .sum = out.sum,
                              .carried = exec.config.post_norm ? in.x : in.sum,
                              .alpha = r.alpha,
                              .branch = branch.rows,
                              .beta = r.beta,
                              .expert_weights = branch.expert_weights,
                              .place = branch.place,
                              .weight = weight,
                              .eps = exec.config.norm_eps,
                              .inverse_rms = out.inverse_rms});
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

// The first half of a layer, and the norm of the second. saved: what backward reads of the branch, or null.
void attention_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, const Flow& out, const Flow& in,
                    LayerSaved* saved) {
  const Arena::Scope half(exec.scratch);
  const Tensor y = out.x;  // the branch's place until it is joined
  if (const auto* a = std::get_if<LightningWeights>(&w.attention))
    lightning_forward(exec, *a, layer, batch, y, in.x, saved ? &saved->attention.emplace<LightningSaved>() : nullptr);
  else
    softmax_forward(exec, std::get<SoftmaxWeights>(w.attention), layer, batch, y, in.x,
                    saved ? &saved->attention.emplace<SoftmaxSaved>() : nullptr);
  join(exec, attention_residual(exec.config, w), out, in, {.rows = y}, w.moe_norm);
}

// The second half, and the norm of whatever comes next, of whose weight this is. out.x may be what attention read.
void moe_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, const Flow& out, const Flow& in,
              Tensor next_norm, LayerSaved* saved) {
  const Arena::Scope half(exec.scratch);
  const BranchOutput branch = moe_forward(exec, w.moe, layer, batch, in.x, saved ? &saved->moe : nullptr);
  join(exec, exec.config.moe_residual, out, in, branch, next_norm);
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

// A layer that leaves nothing but its output, which may take the place of its input. training: the same calls as where
// everything is kept, and what they keep for a while lies on the tape, which backward needs more of.
void layer_forward(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, const Flow& out, const Flow& in,
                   Tensor next_norm, bool training) {
  Exec forgetting = exec.within(training ? exec.tape : exec.scratch);
  const Arena::Scope all(forgetting.scratch);
  const Flow middle = flow_in(forgetting.scratch, exec, in.x.dtype, batch.rows(), training);
  LayerSaved forgotten;
  LayerSaved* const saved = training ? &forgotten : nullptr;
  attention_half(forgetting, w, layer, batch, middle, in, saved);
  for_moe_rows(exec, batch, 0, [&](int64_t begin, int64_t end) {
    const PartOfBatch part(batch, layer, begin, end);
    moe_half(forgetting, w, layer, part.batch(), out.rows(begin, end), middle.rows(begin, end), next_norm, saved);
  });
}

void keep_middle(LayerSaved& saved, const Flow& middle) {
  saved.middle = middle.sum, saved.moe_inverse_rms = middle.inverse_rms;
}

// saved: all that backward reads, on the tape.
void layer_forward_keeping(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, const Flow& out,
                           const Flow& in, Tensor next_norm, LayerSaved& saved) {
  const Flow middle = flow_in(exec.tape, exec, in.x.dtype, batch.rows(), true);
  keep_middle(saved, middle);
  attention_half(exec, w, layer, batch, middle, in, &saved);
  moe_half(exec, w, layer, batch, out, middle, next_norm, &saved);
}

// Of a layer that left nothing but its input: its forward runs again, of the experts a part at a time, but for the
// output, which nobody asks for.
void layer_backward_again(Exec& exec, const LayerWeights& w, LayerWeights& grads, int layer, const Batch& batch,
                          LayerSaved saved, const Balance& balance, Tensor gradient) {
  const Flow in{saved.input, like(exec.tape, saved.input), saved.attention_inverse_rms};
  Flow middle{like(exec.tape, saved.input), {}, exec.tape.alloc(wide(saved.input.dtype), {batch.rows()})};
  normalise(exec, in, in.sum, w.attention_norm);
  keep_middle(saved, middle);
  {
    const Arena::Scope norm(exec.scratch);  // experts take theirs a part at a time
    middle.x = like(exec.scratch, middle.sum);
    attention_half(exec, w, layer, batch, middle, in, &saved);
  }
  Balance of_part = balance;
  for_moe_rows(exec, batch, balance.row_block, [&](int64_t begin, int64_t end) {
    const Arena::Scope rows(exec.tape), work(exec.scratch);
    const PartOfBatch part(batch, layer, begin, end);
    Flow of_rows = middle.rows(begin, end);
    of_rows.x = like(exec.tape, of_rows.sum);
    normalise(exec, of_rows, of_rows.sum, w.moe_norm);
    LayerSaved again;
    keep_middle(again, of_rows);
    moe_forward(exec, w.moe, layer, part.batch(), of_rows.x, &again.moe);
    moe_half_backward(exec, w, grads, layer, part.batch(), again, of_part, gradient.rows(begin, end));
    of_part.first = false;
  });
  attention_half_backward(exec, w, grads, batch, saved, gradient);
}

}  // namespace

Tensor forward(Exec& exec, const ModelWeights& w, const Batch& batch, Saved* saved) {
  const ProfilerRange phase("forward");
  const bool training = saved != nullptr, keeping = training && saved->keep == Keep::everything;
  Arena& keep = training ? exec.tape : exec.scratch;
  const DType type = w.embedding.values.dtype;
  Flow flow = flow_in(keep, exec, type, batch.rows(), training);
  const Tensor embedded = flow.sum ? flow.sum : flow.x;
  embedding(exec.stream, {.y = embedded, .tokens = batch.tokens, .table = w.embedding});
  normalise(exec, flow, embedded, w.layers.front().attention_norm);

  if (saved) saved->layers.resize(w.layers.size());
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const ProfilerRange range("layer", int64_t(i));
    const Arena::Scope layer(exec.scratch);
    const Flow in = flow;
    const Tensor next_norm = i + 1 < w.layers.size() ? w.layers[i + 1].attention_norm : w.final_norm;
    if (training) {
      saved->layers[i].input = in.sum, saved->layers[i].attention_inverse_rms = in.inverse_rms;
      flow.sum = like(keep, in.sum), flow.inverse_rms = keep.alloc(wide(type), {batch.rows()});
    }
    if (keeping) {
      flow.x = like(keep, in.x);
      layer_forward_keeping(exec, w.layers[i], int(i), batch, flow, in, next_norm, saved->layers[i]);
    } else {
      layer_forward(exec, w.layers[i], int(i), batch, flow, in, next_norm, training);
    }
  }
  if (saved) saved->last = flow.sum, saved->final_inverse_rms = flow.inverse_rms;
  if (!batch.head_rows) return flow.x;
  const Tensor hidden = keep.alloc(type, {batch.outputs(), exec.config.width});
  take_rows(exec.stream, {.y = hidden, .x = flow.x, .rows = batch.head_rows});
  return hidden;
}

void backward(Exec& exec, const ModelWeights& w, ModelWeights& grads, const Batch& batch, const Saved& saved,
              const Balance& balance, Tensor d_hidden) {
  const ProfilerRange phase("backward");
  expect(!batch.head_rows, "training wants the hidden vectors of all rows");
  const Arena::Scope all(exec.scratch);
  const Tensor gradient = d_hidden;
  rms_norm_backward(exec.stream, {.dx = gradient,
                                  .dweight = grads.final_norm,
                                  .dy = d_hidden,
                                  .x = saved.last,
                                  .weight = w.final_norm,
                                  .inverse_rms = saved.final_inverse_rms});
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
