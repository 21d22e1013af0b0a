// Matrix products at bench-1b's shapes, rows x outputs x inputs: forward, both gradients together, few rows of
// decoding, the router with what follows it, and experts' rows grouped.
#include "bench/cuda/lines.h"
#include "bench/cuda/routing.h"
#include "bench/cuda/samples.h"
#include "ops/expert_swiglu.h"
#include "ops/gated_norm_linear.h"
#include "ops/route_rows.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kExperts = 16, kExpertWidth = 1024, kSequence = 4096;

struct Sizes {
  int64_t rows, out, in;
  DType wide;  // of y and dy
};

double flops(const Sizes& s) { return 2 * double(s.rows) * double(s.out) * double(s.in); }

Call forward(Draw& draw, const Sizes& s) {
  const Linear op{.y = draw.empty(s.wide, {s.rows, s.out}),
                  .x = draw.normal(DType::bf16, {s.rows, s.in}),
                  .w = {.values = draw.normal(DType::bf16, {s.out, s.in})}};
  Call call = call_of(linear, op);
  call.flops = flops(s);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

// As a decode step calls it, of eight heads: the norm is not kept, and its gate is a quarter of wider rows.
Call gated_norm(Draw& draw, const Sizes& s) {
  constexpr int64_t kHeads = 8;
  const GatedNormLinear op{.y = draw.empty(DType::bf16, {s.rows, s.out}),
                           .gated = draw.empty(DType::bf16, {s.rows, s.in}),
                           .x = draw.normal(DType::bf16, {s.rows, s.in}),
                           .gate = draw.normal(DType::bf16, {s.rows, 4 * s.in}).slice(1, 3 * s.in, 4 * s.in),
                           .weight = draw.normal(DType::bf16, {s.in}),
                           .squares = draw.normal(DType::f32, {kHeads, s.rows}, 5, double(s.in) / kHeads),
                           .whole_width = s.in,
                           .eps = 1e-6,
                           .w = {.values = draw.normal(DType::bf16, {s.out, s.in})},
                           .kept = false};
  Call call = call_of(gated_norm_linear, op);
  call.flops = flops(s);
  return call;
}

Call backward(Draw& draw, const Sizes& s) {
  const LinearBackward op{.dx = draw.empty(DType::bf16, {s.rows, s.in}),
                          .dw = draw.zeros(DType::f32, {s.out, s.in}),
                          .dy = draw.normal(s.wide, {s.rows, s.out}),
                          .x = draw.normal(DType::bf16, {s.rows, s.in}),
                          .w = {.values = draw.normal(DType::bf16, {s.out, s.in})}};
  Call call = call_of(linear_backward, op);
  call.flops = 2 * flops(s);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

// Logits alone are judged.
Call route(Draw& draw, int64_t rows) {
  const RouteRows op{.sorted_rows = draw.empty(DType::i32, {2 * rows}),
                     .place = draw.empty(DType::i32, {rows, 2}),
                     .expert_begin = draw.empty(DType::i32, {kExperts + 1}),
                     .expert_ids = draw.empty(DType::i32, {rows, 2}),
                     .weights = draw.empty(DType::f32, {rows, 2}),
                     .logits = draw.empty(DType::f32, {rows, kExperts}),
                     .x = draw.normal(DType::bf16, {rows, kExpertWidth}),
                     .router = {.values = draw.normal(DType::bf16, {kExperts, kExpertWidth})}};
  Call call = call_of(route_rows, op);
  call.flops = 2 * double(rows * kExperts * kExpertWidth);
  call.error = [op](Stream& stream) { return error_of(stream, op.product()); };
  return call;
}

ExpertLinear experts(Draw& draw, int64_t rows) {
  const Routing routing = draw_routing(rows, kExperts);
  return {.y = draw.empty(DType::bf16, {2 * rows, kExpertWidth}),
          .x = draw.normal(DType::bf16, {2 * rows, kExpertWidth}),
          .w = {.values = draw.normal(DType::bf16, {kExperts, kExpertWidth, kExpertWidth})},
          .expert_begin = draw.values(routing.begin)};
}
double expert_flops(int64_t rows) { return 4 * double(rows) * double(kExpertWidth * kExpertWidth); }

// Of the experts that have rows, as the host knows them.
double busy(int64_t rows) {
  const std::vector<int32_t> begin = draw_routing(rows, kExperts).begin;
  double count = 0;
  for (size_t e = 0; e + 1 < begin.size(); ++e) count += begin[e] < begin[e + 1];
  return count;
}

Call expert_forward(Draw& draw, int64_t rows) {
  const ExpertLinear op = experts(draw, rows);
  Call call = call_of(expert_linear, op);
  call.bytes = double(op.y.bytes() + op.x.bytes()) + busy(rows) * 2 * double(kExpertWidth * kExpertWidth);
  call.flops = expert_flops(rows);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

Weight expert_weights(Draw& draw, bool int8) {
  if (!int8) return {.values = draw.normal(DType::bf16, {kExperts, kExpertWidth, kExpertWidth})};
  std::vector<int8_t> values(size_t(kExperts * kExpertWidth * kExpertWidth));
  for (size_t i = 0; i < values.size(); ++i) values[i] = int8_t(i * 37 % 255 - 127);
  return {.values = draw.values(values, {kExperts, kExpertWidth, kExpertWidth}),
          .scales = draw.normal(DType::f32, {kExperts, kExpertWidth, scale_count(kExpertWidth)}, 0.01)};
}

// As a decode step calls it: what lies between is not kept.
Call expert_gated(Draw& draw, int64_t rows, bool int8) {
  const Routing routing = draw_routing(rows, kExperts);
  const auto choices = [&] { return draw.empty(DType::bf16, {2 * rows, kExpertWidth}); };
  const ExpertSwiglu op{.y = choices(),
                        .grouped = choices(),
                        .gate = choices(),
                        .up = choices(),
                        .x = draw.normal(DType::bf16, {rows, kExpertWidth}),
                        .rows = draw.values(routing.taken),
                        .w_gate = expert_weights(draw, int8),
                        .w_up = expert_weights(draw, int8),
                        .expert_begin = draw.values(routing.begin),
                        .kept = false};
  Call call = call_of(expert_swiglu, op);
  call.bytes = double(op.y.bytes() + op.x.bytes()) + busy(rows) * 2 * double(bytes_of_expert(op.w_gate));
  call.flops = 2 * expert_flops(rows);
  return call;
}

// Of as many matrices as `stacked` an expert, one below the other.
Call expert_backward(Draw& draw, int64_t rows, int64_t row_block, int64_t stacked) {
  const Routing routing = draw_routing(rows, kExperts);
  const int64_t out = stacked * kExpertWidth;
  const ExpertLinearBackward op{.dx = draw.empty(DType::bf16, {2 * rows, kExpertWidth}),
                                .dw = draw.zeros(DType::f32, {kExperts, out, kExpertWidth}),
                                .dy = draw.normal(DType::bf16, {2 * rows, out}),
                                .x = draw.normal(DType::bf16, {2 * rows, kExpertWidth}),
                                .w = {.values = draw.normal(DType::bf16, {kExperts, out, kExpertWidth})},
                                .expert_begin = draw.values(routing.begin),
                                .choice_rows = row_block ? draw.values(routing.taken) : Tensor{},
                                .row_block = row_block};
  Call call = call_of(expert_linear_backward, op);
  call.flops = 2 * double(stacked) * expert_flops(rows);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

std::string text(const Sizes& s) {
  return std::to_string(s.rows) + " x " + std::to_string(s.out) + " x " + std::to_string(s.in) +
         (s.wide == DType::f32 ? ", f32" : "");
}

}  // namespace

std::vector<Line> product_lines() {
  constexpr Sizes large[] = {{32768, 3072, 1024, DType::bf16},
                             {32768, 1024, 1024, DType::bf16},
                             {1024, 32000, 1024, DType::f32},
                             {32768, 16, 1024, DType::f32}};
  std::vector<Line> lines;
  for (const Sizes& s : large) lines.push_back({"linear", text(s), [=](Draw& draw) { return forward(draw, s); }});
  for (const Sizes& s : large)
    lines.push_back({"linear_backward", text(s), [=](Draw& draw) { return backward(draw, s); }});
  for (const int64_t rows : {1, 8, 32, 128})
    for (const int64_t out : {3072, 1024}) {
      const Sizes s{rows, out, 1024, DType::bf16};
      lines.push_back({"linear", text(s), [=](Draw& draw) { return forward(draw, s); }});
    }
  for (const int64_t rows : {1, 8, 16, 32, 128}) {
    const Sizes s{rows, 1024, 1024, DType::bf16};
    lines.push_back({"gated_norm_linear", text(s), [=](Draw& draw) { return gated_norm(draw, s); }});
  }
  for (const int64_t rows : {1, 8, 32, 128, 32768})
    lines.push_back({"route_rows", std::to_string(rows) + " x 1024, 2 of 16 experts",
                     [=](Draw& draw) { return route(draw, rows); }});
  const std::string shape = " x 1024 x 1024, 16 experts";
  for (const int64_t rows : {32768, 1, 8, 32, 128})
    lines.push_back(
        {"expert_linear", std::to_string(2 * rows) + shape, [=](Draw& draw) { return expert_forward(draw, rows); }});
  for (const bool int8 : {false, true})
    for (const int64_t rows : {1, 8, 32, 128})
      lines.push_back({"expert_swiglu", std::to_string(2 * rows) + shape + (int8 ? ", int8" : ""),
                       [=](Draw& draw) { return expert_gated(draw, rows, int8); }});
  for (const int64_t row_block : {int64_t(0), kSequence})
    lines.push_back({"expert_linear_backward", "65536" + shape + (row_block ? ", cut at 4096" : ""),
                     [=](Draw& draw) { return expert_backward(draw, 32768, row_block, 1); }});
  lines.push_back({"expert_linear_backward", "65536 x 2048 x 1024, 16 experts, cut at 4096",
                   [](Draw& draw) { return expert_backward(draw, 32768, kSequence, 2); }});
  return lines;
}

}  // namespace fulgur::bench
