// Mixture of experts, the second half of every layer: route, group rows by expert, SwiGLU experts, combine
// (spec/model.md 2.3, 8.10).
#include <cmath>

#include "model/model.h"
#include "ops/combine_experts.h"
#include "ops/expert_linear.h"
#include "ops/expert_swiglu.h"
#include "ops/group_rows.h"
#include "ops/linear.h"
#include "ops/load_balance.h"
#include "ops/route_experts.h"
#include "ops/route_rows.h"
#include "ops/router_statistics.h"
#include "ops/router_z_loss.h"
#include "ops/take_rows.h"

namespace fulgur {
namespace {

// Groups the rows by expert: as the router chooses, or as the batch imposes. Keeps what the router's losses read when
// training.
void route(Exec& exec, const MoeWeights& w, int layer, const Batch& batch, Tensor x, MoeSaved& s, Arena& keep,
           bool training) {
  const int64_t rows = x.dim(0), experts = exec.config.experts, k = exec.config.experts_per_token;
  const DType type = wide(x.dtype);
  const bool given = batch.routing != Batch::Routing::own, imposed = batch.routing == Batch::Routing::imposed;
  s.expert_ids = given ? batch.experts[size_t(layer)] : keep.alloc(DType::i32, {rows, k});
  s.weights = given ? batch.weights[size_t(layer)] : keep.alloc(type, {rows, k});
  if (training && !imposed)
    s.probabilities = keep.alloc(type, {rows, experts}), s.log_sum_exp = keep.alloc(type, {rows}),
    s.entropy = keep.alloc(type, {rows});
  const RouteRows op{.sorted_rows = s.sorted_rows,
                     .place = s.place,
                     .expert_begin = s.expert_begin,
                     .expert_ids = s.expert_ids,
                     .weights = s.weights,
                     .logits = imposed ? Tensor{} : exec.scratch.alloc(type, {rows, experts}),
                     .x = x,
                     .router = {.values = w.router},
                     .probabilities = s.probabilities,
                     .log_sum_exp = s.log_sum_exp,
                     .entropy = s.entropy,
                     .choices = batch.choices ? batch.choices.at(layer) : Tensor{},
                     .window = batch.window,
                     .capacity = batch.capacity};
  if (imposed) group_rows(exec.stream, op.grouping());
  else route_rows(exec.stream, op);
}

// Adds the router's losses to d_logits, and both and what was counted to the layer's sums.
void judge_router(Exec& exec, int layer, const Batch& batch, const MoeSaved& s, const Balance& balance,
                  Tensor d_logits) {
  using Sums = RouterSums;
  const Tensor sums = balance.sums.at(layer);
  const auto sum = [&](int64_t column, int64_t count = 1) { return sums.rows(column, column + count); };
  if (balance.scale != 0)
    load_balance(exec.stream, {.loss = sum(Sums::balance_loss),
                               .dlogits = d_logits,
                               .choices = balance.pooled ? batch.choices : batch.choices.rows(layer, layer + 1),
                               .probabilities = s.probabilities,
                               .scale = balance.scale});
  if (balance.z_scale != 0)
    router_z_loss(exec.stream, {.loss = sum(Sums::z_loss),
                                .dlogits = d_logits,
                                .log_sum_exp = s.log_sum_exp,
                                .probabilities = s.probabilities,
                                .scale = balance.z_scale});
  router_statistics(exec.stream, {.load = sum(Sums::load, exec.config.experts),
                                  .dropped = sum(Sums::dropped, Sums::kParts),
                                  .entropy_sum = sum(Sums::entropy),
                                  .choices = batch.choices.at(layer),
                                  .place = s.place,
                                  .entropy = s.entropy});
}

}  // namespace

int64_t expert_capacity(const ModelConfig& config, int64_t window, double factor) {
  const double share = factor * double(config.experts_per_token * window) / double(config.experts);
  return (int64_t(std::ceil(share)) + 7) / 8 * 8;
}

BranchOutput moe_forward(Exec& exec, const MoeWeights& w, int layer, const Batch& batch, Tensor x, MoeSaved* saved) {
  const ModelConfig& c = exec.config;
  const int64_t rows = x.dim(0), choices = rows * c.experts_per_token;
  Arena& keep = saved ? exec.tape : exec.scratch;
  MoeSaved s{.x = x,
             .expert_ids = {},
             .weights = {},
             .probabilities = {},
             .log_sum_exp = {},
             .entropy = {},
             .sorted_rows = keep.alloc(DType::i32, {choices}),
             .place = keep.alloc(DType::i32, {rows, c.experts_per_token}),
             .expert_begin = keep.alloc(DType::i32, {c.experts + 1}),
             .grouped = keep.alloc(x.dtype, {choices, c.width}),
             .gate = keep.alloc(x.dtype, {choices, c.expert_width}),
             .up = keep.alloc(x.dtype, {choices, c.expert_width}),
             .middle = keep.alloc(x.dtype, {choices, c.expert_width}),
             .down = keep.alloc(x.dtype, {choices, c.width})};

  route(exec, w, layer, batch, x, s, keep, saved != nullptr);
  expert_swiglu(exec.stream, {.y = s.middle,
                              .grouped = s.grouped,
                              .gate = s.gate,
                              .up = s.up,
                              .x = x,
                              .rows = s.sorted_rows,
                              .w_gate = w.gate,
                              .w_up = w.up,
                              .expert_begin = s.expert_begin,
                              .kept = saved != nullptr});
  expert_linear(exec.stream, {.y = s.down, .x = s.middle, .w = w.down, .expert_begin = s.expert_begin});

  if (saved) *saved = s;
  return {.rows = s.down, .expert_weights = s.weights, .place = s.place};
}

void moe_backward(Exec& exec, const MoeWeights& w, MoeWeights& grads, int layer, const Batch& batch, const MoeSaved& s,
                  const Balance& balance, Tensor dx, Tensor dy) {
  const ModelConfig& c = exec.config;
  const int64_t rows = dy.dim(0), choices = rows * c.experts_per_token;
  const DType type = dy.dtype;
  const Tensor choice_rows = balance.row_block ? s.sorted_rows : Tensor{};
  const Tensor d_weights = exec.scratch.alloc(wide(type), {rows, c.experts_per_token});
  const Tensor d_logits = exec.scratch.alloc(wide(type), {rows, c.experts});
  const Tensor d_down = exec.scratch.alloc(type, {choices, c.width});
  const Tensor d_gate_up = exec.scratch.alloc(type, {choices, 2 * c.expert_width});
  const Tensor d_grouped = d_down;  // free once d_gate_up is known
  const Store dw_store = balance.first ? Store::overwrite : Store::add;

  combine_experts_backward(
      exec.stream,
      {.dx = d_down, .dweights = d_weights, .dy = dy, .x = s.down, .weights = s.weights, .place = s.place});
  expert_swiglu_backward(exec.stream, {.dgate = d_gate_up.slice(1, 0, c.expert_width),
                                       .dup = d_gate_up.slice(1, c.expert_width, 2 * c.expert_width),
                                       .dw = grads.down.values,
                                       .dy = d_down,
                                       .y = s.middle,
                                       .gate = s.gate,
                                       .up = s.up,
                                       .w = w.down,
                                       .expert_begin = s.expert_begin,
                                       .choice_rows = choice_rows,
                                       .row_block = balance.row_block,
                                       .dw_store = dw_store});
  expert_linear_backward(exec.stream, {.dx = d_grouped,
                                       .dw = grads.gate_up.values,
                                       .dy = d_gate_up,
                                       .x = s.grouped,
                                       .w = w.gate_up,
                                       .expert_begin = s.expert_begin,
                                       .choice_rows = choice_rows,
                                       .row_block = balance.row_block,
                                       .dw_store = dw_store});
  take_rows_backward(exec.stream, {.dx = dx, .dy = d_grouped, .rows = s.sorted_rows});

  route_experts_backward(
      exec.stream, {.dlogits = d_logits, .dweights = d_weights, .expert_ids = s.expert_ids, .weights = s.weights});
  if (balance.sums) judge_router(exec, layer, batch, s, balance, d_logits);
  linear_backward(
      exec.stream,
      {.dx = dx, .dw = grads.router, .dy = d_logits, .x = s.x, .w = {.values = w.router}, .dx_store = Store::add});
}

}  // namespace fulgur
