// The operators that work row by row, at 32,768 rows of bench-1b's widths and of MiniMax-Text-01's.
#include <algorithm>

#include "bench/cuda/lines.h"
#include "bench/cuda/routing.h"
#include "ops/blend.h"
#include "ops/combine_experts.h"
#include "ops/embedding.h"
#include "ops/gated_rms_norm.h"
#include "ops/residual_norm.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/store_kv.h"
#include "ops/swiglu.h"
#include "ops/take_rows.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kRows = 32768, kHeadSize = 128, kRotary = 64, kSequences = 8, kChoices = 2;

struct Sizes {
  int64_t hidden, heads, kv_heads, expert_width, experts, vocabulary;
  int64_t inner() const { return heads * kHeadSize; }
};
constexpr Sizes kSizes[] = {{1024, 8, 2, 1024, 16, 32000}, {6144, 64, 8, 9216, 32, 200064}};

Tensor rows(Draw& draw, int64_t width, double deviation = 1) {
  return draw.normal(DType::bf16, {kRows, width}, deviation);
}
Tensor weight(Draw& draw, int64_t width) { return draw.normal(DType::bf16, {width}, 0.1, 1); }
Tensor near_one(Draw& draw, std::initializer_list<int64_t> shape) { return draw.normal(DType::f32, shape, 0.05, 1); }

Call norm(Draw& draw, const Sizes& s) {
  return call_of(rms_norm, RmsNorm{.y = draw.empty(DType::bf16, {kRows, s.hidden}),
                                   .x = rows(draw, s.hidden),
                                   .weight = weight(draw, s.hidden),
                                   .eps = 1e-5,
                                   .inverse_rms = draw.empty(DType::f32, {kRows})});
}

Call norm_backward(Draw& draw, const Sizes& s) {
  return call_of(rms_norm_backward, RmsNormBackward{.dx = draw.empty(DType::bf16, {kRows, s.hidden}),
                                                    .dweight = draw.normal(DType::f32, {s.hidden}),
                                                    .dy = rows(draw, s.hidden),
                                                    .x = rows(draw, s.hidden),
                                                    .weight = weight(draw, s.hidden),
                                                    .inverse_rms = near_one(draw, {kRows})});
}

// Squares of a head are near their expectation.
Call gated_norm(Draw& draw, const Sizes& s) {
  return call_of(gated_rms_norm, GatedRmsNorm{.y = draw.empty(DType::bf16, {kRows, s.inner()}),
                                              .x = rows(draw, s.inner()),
                                              .gate = rows(draw, s.inner()),
                                              .weight = weight(draw, s.inner()),
                                              .squares = draw.normal(DType::f32, {s.heads, kRows}, 5, kHeadSize),
                                              .whole_width = s.inner(),
                                              .eps = 1e-6,
                                              .inverse_rms = draw.empty(DType::f32, {kRows})});
}

Call gated_norm_products(Draw& draw, const Sizes& s) {
  return call_of(gated_rms_norm_products, GatedRmsNormProducts{.products = draw.empty(DType::f32, {s.heads, kRows}),
                                                               .dy = rows(draw, s.inner()),
                                                               .x = rows(draw, s.inner()),
                                                               .gate = rows(draw, s.inner()),
                                                               .weight = weight(draw, s.inner())});
}

Call gated_norm_backward(Draw& draw, const Sizes& s) {
  return call_of(gated_rms_norm_backward, GatedRmsNormBackward{.dx = draw.empty(DType::bf16, {kRows, s.inner()}),
                                                               .dgate = draw.empty(DType::bf16, {kRows, s.inner()}),
                                                               .dweight = draw.normal(DType::f32, {s.inner()}),
                                                               .dy = rows(draw, s.inner()),
                                                               .x = rows(draw, s.inner()),
                                                               .gate = rows(draw, s.inner()),
                                                               .weight = weight(draw, s.inner()),
                                                               .inverse_rms = near_one(draw, {kRows}),
                                                               .products = draw.normal(DType::f32, {s.heads, kRows}),
                                                               .whole_width = s.inner()});
}

Layout sequences() {
  return lay_out(std::vector<int64_t>(kSequences, kRows / kSequences), std::vector<int64_t>(kSequences, 0));
}

// A softmax layer's rows: q, k and v side by side.
Tensor qkv(Draw& draw, const Sizes& s) {
  return draw.normal(DType::bf16, {kRows, s.heads + 2 * s.kv_heads, kHeadSize});
}

// The turned half of q and k.
Call turn(Draw& draw, const Sizes& s) {
  const Tensor all = qkv(draw, s);
  const Rotary op{.x = all.slice(1, 0, s.heads + s.kv_heads),
                  .positions = draw.values(sequences().positions),
                  .rotary_dim = kRotary,
                  .theta = 1e7};
  Call call = call_of(rotary, op);
  call.tensors.push_back({all, true, true});
  call.bytes = double(2 * op.x.bytes() * kRotary / kHeadSize + op.positions.bytes());
  return call;
}

Call store(Draw& draw, const Sizes& s) {
  const Tensor all = qkv(draw, s);
  const Layout layout = sequences();
  const int64_t pages = kRows / kGrid;
  std::vector<int32_t> table;
  for (int64_t i = 0; i < pages; ++i) table.push_back(int32_t(i * 1009 % pages));  // 1009 is a prime
  return call_of(store_kv, StoreKv{.kv_pages = draw.normal(DType::bf16, {pages, 2, s.kv_heads, kGrid, kHeadSize}),
                                   .k = all.slice(1, s.heads, s.heads + s.kv_heads),
                                   .v = all.slice(1, s.heads + s.kv_heads, s.heads + 2 * s.kv_heads),
                                   .row_begin = draw.values(layout.row_begin),
                                   .positions = draw.values(layout.positions),
                                   .page_table = draw.values(table, {kSequences, pages / kSequences})});
}

Call residual(Draw& draw, const Sizes& s) {
  return call_of(blend, Blend{.y = draw.empty(DType::bf16, {kRows, s.hidden}),
                              .a = rows(draw, s.hidden),
                              .alpha = 2.3784142300054421,
                              .b = rows(draw, s.hidden),
                              .beta = 1});
}

Call gate_up(Draw& draw, const Sizes& s) {
  return call_of(swiglu, Swiglu{.y = draw.empty(DType::bf16, {kRows, s.expert_width}),
                                .gate = rows(draw, s.expert_width),
                                .up = rows(draw, s.expert_width)});
}

Call gate_up_backward(Draw& draw, const Sizes& s) {
  return call_of(swiglu_backward, SwigluBackward{.dgate = draw.empty(DType::bf16, {kRows, s.expert_width}),
                                                 .dup = draw.empty(DType::bf16, {kRows, s.expert_width}),
                                                 .dy = rows(draw, s.expert_width),
                                                 .gate = rows(draw, s.expert_width),
                                                 .up = rows(draw, s.expert_width)});
}

// Floors of gathers count each row once, however often it is taken.
double distinct(std::vector<int32_t> rows) {
  std::sort(rows.begin(), rows.end());
  return double(std::unique(rows.begin(), rows.end()) - rows.begin());
}

Call embed(Draw& draw, const Sizes& s) {
  const std::vector<int32_t> tokens = draw_tokens(kRows, s.vocabulary);
  const Embedding op{.y = draw.empty(DType::bf16, {kRows, s.hidden}),
                     .tokens = draw.values(tokens),
                     .table = {.values = draw.normal(DType::bf16, {s.vocabulary, s.hidden})}};
  Call call = call_of(embedding, op);
  call.bytes = double(op.y.bytes() + op.tokens.bytes()) + distinct(tokens) * 2 * double(s.hidden);
  return call;
}

Call embed_backward(Draw& draw, const Sizes& s) {
  const std::vector<int32_t> tokens = draw_tokens(kRows, s.vocabulary);
  const EmbeddingBackward op{.dtable = draw.normal(DType::f32, {s.vocabulary, s.hidden}),
                             .dy = rows(draw, s.hidden),
                             .tokens = draw.values(tokens)};
  Call call = call_of(embedding_backward, op);
  call.bytes = double(op.dy.bytes() + op.tokens.bytes()) + distinct(tokens) * 2 * 4 * double(s.hidden);
  return call;
}

Call take(Draw& draw, const Sizes& s) {
  const TakeRows op{.y = draw.empty(DType::bf16, {kRows * kChoices, s.hidden}),
                    .x = rows(draw, s.hidden),
                    .rows = draw.values(draw_routing(kRows, s.experts).taken)};
  Call call = call_of(take_rows, op);
  call.bytes = double(op.y.bytes() + op.x.bytes() + op.rows.bytes());
  return call;
}

Call take_backward(Draw& draw, const Sizes& s) {
  return call_of(take_rows_backward, TakeRowsBackward{.dx = draw.empty(DType::bf16, {kRows, s.hidden}),
                                                      .dy = draw.normal(DType::bf16, {kRows * kChoices, s.hidden}),
                                                      .rows = draw.values(draw_routing(kRows, s.experts).taken)});
}

// The end of a training step's half: the sum is kept.
ResidualNorm residual_of(Draw& draw, const Sizes& s, Tensor branch) {
  return {.y = draw.empty(DType::bf16, {kRows, s.hidden}),
          .sum = draw.empty(DType::bf16, {kRows, s.hidden}),
          .carried = rows(draw, s.hidden),
          .alpha = 2,
          .branch = branch,
          .beta = 1,
          .expert_weights = {},
          .place = {},
          .weight = draw.normal(DType::bf16, {s.hidden}),
          .eps = 1e-5,
          .inverse_rms = draw.empty(DType::f32, {kRows})};
}

Call join(Draw& draw, const Sizes& s) { return call_of(residual_norm, residual_of(draw, s, rows(draw, s.hidden))); }

Call join_experts(Draw& draw, const Sizes& s) {
  ResidualNorm op = residual_of(draw, s, draw.normal(DType::bf16, {kRows * kChoices, s.hidden}));
  op.expert_weights = draw.normal(DType::f32, {kRows, kChoices}, 0.1, 0.5);
  op.place = draw.values(draw_routing(kRows, s.experts).place, {kRows, kChoices});
  return call_of(residual_norm, op);
}

Call combine_backward(Draw& draw, const Sizes& s) {
  return call_of(combine_experts_backward,
                 CombineExpertsBackward{.dx = draw.empty(DType::bf16, {kRows * kChoices, s.hidden}),
                                        .dweights = draw.empty(DType::f32, {kRows, kChoices}),
                                        .dy = rows(draw, s.hidden),
                                        .x = draw.normal(DType::bf16, {kRows * kChoices, s.hidden}),
                                        .weights = draw.normal(DType::f32, {kRows, kChoices}, 0.1, 0.5),
                                        .place = draw.values(draw_routing(kRows, s.experts).place, {kRows, kChoices})});
}

}  // namespace

std::vector<Line> row_lines() {
  using Drawn = Call (*)(Draw&, const Sizes&);
  struct Operator {
    const char* name;
    Drawn draw;
    int64_t (*width)(const Sizes&);
  };
  constexpr auto hidden = [](const Sizes& s) { return s.hidden; };
  constexpr auto inner = [](const Sizes& s) { return s.inner(); };
  constexpr auto expert = [](const Sizes& s) { return s.expert_width; };
  constexpr auto turned = [](const Sizes& s) { return (s.heads + s.kv_heads) * kHeadSize; };
  constexpr auto kept = [](const Sizes& s) { return s.kv_heads * kHeadSize; };
  constexpr Operator operators[] = {{"rms_norm", norm, hidden},
                                    {"rms_norm_backward", norm_backward, hidden},
                                    {"gated_rms_norm", gated_norm, inner},
                                    {"gated_rms_norm_products", gated_norm_products, inner},
                                    {"gated_rms_norm_backward", gated_norm_backward, inner},
                                    {"rotary", turn, turned},
                                    {"store_kv", store, kept},
                                    {"blend", residual, hidden},
                                    {"swiglu", gate_up, expert},
                                    {"swiglu_backward", gate_up_backward, expert},
                                    {"embedding", embed, hidden},
                                    {"embedding_backward", embed_backward, hidden},
                                    {"take_rows", take, hidden},
                                    {"take_rows_backward", take_backward, hidden},
                                    {"residual_norm", join, hidden},
                                    {"residual_norm of experts", join_experts, hidden},
                                    {"combine_experts_backward", combine_backward, hidden}};
  std::vector<Line> lines;
  for (const Operator& o : operators)
    for (const Sizes& s : kSizes)
      lines.push_back({o.name, std::to_string(kRows) + " x " + std::to_string(o.width(s)),
                       [draw = o.draw, s](Draw& d) { return draw(d, s); }});
  return lines;
}

}  // namespace fulgur::bench
