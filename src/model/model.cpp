// The network between tokens and hidden rows: each layer is two halves of norm, branch and residual (spec/model.md 2);
// backward is the halves in reverse.
#include "model/model.h"

#include <algorithm>
#include <numeric>

#include "device/profiler_range.h"
#include "model/flow.h"
#include "ops/blend.h"
#include "ops/embedding.h"
#include "ops/residual_norm.h"
#include "ops/rms_norm.h"
#include "ops/take_rows.h"

namespace fulgur {
namespace {

Tensor like(Arena& arena, Tensor t) { return arena.alloc(t.dtype, {t.dim(0), t.dim(1)}); }

// Makes what is not there yet.
void complete(Exec& exec, Flow& flow) {
  if (flow.join) residual_norm(exec.stream, *flow.join);
  flow.join.reset();
}

// flow.x = norm of sum, which may be flow.x.
void normalise(Exec& exec, const Flow& flow, Tensor sum, Tensor weight) {
  rms_norm(exec.stream,
           {.y = flow.x, .x = sum, .weight = weight, .eps = exec.config.norm_eps, .inverse_rms = flow.inverse_rms});
}

// The end of half a layer: out.sum = alpha * carried + beta * branch, out.x its norm. out.sum may be in.sum, and either
// of out the branch, if it is one of rows.
ResidualNorm join_of(const Exec& exec, Residual r, const Flow& out, const Flow& in, const BranchOutput& branch,
                     Tensor weight) {
  return {.y = out.x,
          .sum = out.sum,
          .carried = exec.config.post_norm ? in.x : in.sum,
          .alpha = r.alpha,
          .branch = branch.rows,
          .beta = r.beta,
          .expert_weights = branch.expert_weights,
          .place = branch.place,
          .weight = weight,
          .eps = exec.config.norm_eps,
          .inverse_rms = out.inverse_rms};
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

// The branch of the first half of a layer, which the second joins to the stream. saved: what backward reads of it, or
// null.
void attention_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Tensor y, const Flow& in,
                    LayerSaved* saved) {
  const Arena::Scope half(exec.scratch);
  const BranchInput input{in.x, in.join};
  if (const auto* a = std::get_if<LightningWeights>(&w.attention))
    lightning_forward(exec, *a, layer, batch, y, input, saved ? &saved->attention.emplace<LightningSaved>() : nullptr);
  else
    softmax_forward(exec, std::get<SoftmaxWeights>(w.attention), layer, batch, y, input,
                    saved ? &saved->attention.emplace<SoftmaxSaved>() : nullptr);
}

// The layer's middle: where attention's branch, of a flow `in`, has joined.
ResidualNorm middle_of(const Exec& exec, const LayerWeights& w, const Flow& middle, const Flow& in, Tensor attended) {
  return join_of(exec, attention_residual(exec.config, w), middle, in, {.rows = attended}, w.moe_norm);
}

// The second half, and where its branch is to join, before a norm of this weight. middle.x is attention's branch until
// that has joined; out.x may be in.x.
ResidualNorm moe_half(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, const Flow& out,
                      const LayerRoom& room, const Flow& in, Tensor next_norm, LayerSaved* saved) {
  const Arena::Scope half(exec.scratch);
  const BranchOutput branch = moe_forward(exec, w.moe, layer, batch, middle_of(exec, w, room.middle, in, room.middle.x),
                                          room.choices, saved ? &saved->moe : nullptr);
  return join_of(exec, exec.config.moe_residual, out, room.middle, branch, next_norm);
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

// Of the parts that a layer's experts take one after the other: whole windows and blocks.
int64_t rows_at_once(const Exec& exec, const Batch& batch, int64_t row_block) {
  const int64_t unit = std::lcm(std::max<int64_t>(batch.window, 1), std::max<int64_t>(row_block, 1));
  return std::max<int64_t>(exec.moe_rows / unit, 1) * unit;
}
// visit(begin, end) of each.
template <class Visit>
void for_moe_rows(const Exec& exec, const Batch& batch, int64_t row_block, Visit&& visit) {
  const int64_t step = rows_at_once(exec, batch, row_block);
  for (int64_t begin = 0; begin < batch.rows(); begin += step) visit(begin, std::min(begin + step, batch.rows()));
}

LayerRoom room_in(Arena& keep, const Exec& exec, DType type, const Batch& batch, bool training) {
  return {flow_in(keep, exec.config, type, batch.rows(), training),
          choices_in(keep, exec.config, type, std::min(batch.rows(), rows_at_once(exec, batch, 0)))};
}

// A layer that leaves nothing but its output, which may take the place of its input. Where its experts take all rows at
// once, the join at its end is left to whoever reads the output.
void layer_forward(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Flow& out, const Flow& in,
                   const LayerRoom& room, Tensor next_norm, LayerSaved* saved) {
  attention_half(exec, w, layer, batch, room.middle.x, in, saved);
  for_moe_rows(exec, batch, 0, [&](int64_t begin, int64_t end) {
    const PartOfBatch part(batch, layer, begin, end);
    out.join = moe_half(exec, w, layer, part.batch(), out.rows(begin, end), room.rows(begin, end), in.rows(begin, end),
                        next_norm, saved);
    if (end - begin < batch.rows()) complete(exec, out);
  });
}

// The same calls as where everything is kept: what they keep for a while lies on the tape, which backward needs more
// of.
void layer_forward_forgetting(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Flow& out,
                              const Flow& in, Tensor next_norm) {
  Exec forgetting = exec.within(exec.tape);
  const Arena::Scope all(exec.tape);
  const LayerRoom room = room_in(exec.tape, exec, in.x.dtype, batch, true);
  LayerSaved forgotten;
  layer_forward(forgetting, w, layer, batch, out, in, room, next_norm, &forgotten);
  complete(exec, out);
}

void keep_middle(LayerSaved& saved, const Flow& middle) {
  saved.middle = middle.sum, saved.moe_inverse_rms = middle.inverse_rms;
}

// saved: all that backward reads, on the tape.
void layer_forward_keeping(Exec& exec, const LayerWeights& w, int layer, const Batch& batch, Flow& out, const Flow& in,
                           Tensor next_norm, LayerSaved& saved) {
  const LayerRoom room{flow_in(exec.tape, exec.config, in.x.dtype, batch.rows(), true),
                       choices_in(exec.tape, exec.config, in.x.dtype, batch.rows())};
  keep_middle(saved, room.middle);
  attention_half(exec, w, layer, batch, room.middle.x, in, &saved);
  out.join = moe_half(exec, w, layer, batch, out, room, in, next_norm, &saved);
}

// Of a layer that left nothing but its input: its forward runs again, of the experts a part at a time, but for the
// output, which nobody asks for.
void layer_backward_again(Exec& exec, const LayerWeights& w, LayerWeights& grads, int layer, const Batch& batch,
                          LayerSaved saved, const Balance& balance, Tensor gradient) {
  const Flow in{saved.input, like(exec.tape, saved.input), saved.attention_inverse_rms};
  const Flow middle{like(exec.tape, saved.input), {}, exec.tape.alloc(wide(saved.input.dtype), {batch.rows()})};
  normalise(exec, in, in.sum, w.attention_norm);
  keep_middle(saved, middle);
  attention_half(exec, w, layer, batch, middle.sum, in, &saved);  // whose branch lies there until it is joined
  Balance of_part = balance;
  for_moe_rows(exec, batch, balance.row_block, [&](int64_t begin, int64_t end) {
    const Arena::Scope rows(exec.tape), work(exec.scratch);
    const PartOfBatch part(batch, layer, begin, end);
    Flow of_rows = middle.rows(begin, end);
    of_rows.x = like(exec.tape, of_rows.sum);
    LayerSaved again;
    keep_middle(again, of_rows);
    moe_forward(exec, w.moe, layer, part.batch(), middle_of(exec, w, of_rows, in.rows(begin, end), of_rows.sum),
                choices_in(exec.tape, exec.config, of_rows.x.dtype, end - begin), &again.moe);
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
  Flow flow = flow_in(keep, exec.config, type, batch.rows(), training);
  const Tensor embedded = flow.sum ? flow.sum : flow.x;
  embedding(exec.stream, {.y = embedded, .tokens = batch.tokens, .table = w.embedding});
  normalise(exec, flow, embedded, w.layers.front().attention_norm);

  const LayerRoom room = training ? LayerRoom{} : room_in(keep, exec, type, batch, training);
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
    } else if (training) {
      layer_forward_forgetting(exec, w.layers[i], int(i), batch, flow, in, next_norm);
    } else {
      layer_forward(exec, w.layers[i], int(i), batch, flow, in, room, next_norm, nullptr);
    }
  }
  complete(exec, flow);
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
