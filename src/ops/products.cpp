#include "ops/products.h"

#include <algorithm>
#include <cmath>

#include "base/grid.h"

namespace fulgur {
namespace {

double all_flops(const MatrixProduct& p) { return 2.0 * double(p.m) * double(p.n) * double(p.k) * double(p.count); }

MatrixProduct counted(MatrixProduct p) {
  p.flops = all_flops(p);
  return p;
}

bool readable(const Tensor& t) { return t.data != nullptr && !t.device.is_cuda(); }

int64_t kept_choices(const Tensor& expert_begin, int64_t choices) {
  return readable(expert_begin) ? expert_begin.view<int32_t, 1>()(expert_begin.dim(0) - 1) : choices;
}

// A product of attention: equal tiles that make up the FLOPs counted, at least one.
MatrixProduct tiles(MatrixProduct p, double whole_flops, double counted_flops) {
  p.in_cache = true;
  p.count = std::max<int64_t>(1, std::llround(whole_flops / all_flops(p)));
  p.flops = counted_flops;
  return p;
}

// The kinds of products between blocks of rows, blocks of keys and a head's width.
struct Blocks {
  int64_t rows, keys, width;
  DType type;

  MatrixProduct scores() const { return {rows, keys, width, ProductLayout::nt, type, type, wide(type)}; }
  MatrixProduct of_values() const { return {rows, width, keys, ProductLayout::nn, type, type, wide(type)}; }
  MatrixProduct of_rows() const { return {keys, width, rows, ProductLayout::tn, type, type, wide(type)}; }
  MatrixProduct of_state() const { return {rows, width, width, ProductLayout::nn, type, type, wide(type)}; }
  MatrixProduct of_state_transposed() const { return {rows, width, width, ProductLayout::nt, type, type, wide(type)}; }
  MatrixProduct to_state() const { return {width, width, rows, ProductLayout::tn, type, type, wide(type), true}; }
};

Blocks lightning_blocks(const Tensor& o, int64_t longest) {
  return {std::min(longest, kGrid), kGrid, o.dim(2), o.dtype};
}

Blocks softmax_blocks(const Tensor& q, int64_t kv_heads, int64_t longest) {
  return {std::min(longest, kGrid) * (q.dim(1) / kv_heads), kGrid, q.dim(2), q.dtype};
}

}  // namespace

MatrixProduct output_product(Tensor y, Tensor x, const Weight& w) {
  const DType multiplied = w.scales ? x.dtype : w.values.dtype;
  return counted({x.dim(0), w.out(), w.in(), ProductLayout::nt, x.dtype, multiplied, y.dtype});
}

MatrixProduct input_gradient_product(Tensor dx, Tensor dy, const Weight& w, bool adds) {
  return counted({dy.dim(0), w.in(), w.out(), ProductLayout::nn, dy.dtype, w.values.dtype, dx.dtype, adds});
}

MatrixProduct weight_gradient_product(Tensor dw, Tensor dy, Tensor x) {
  return counted({dy.dim(1), x.dim(1), x.dim(0), ProductLayout::tn, dy.dtype, x.dtype, dw.dtype, true});
}

int64_t busy_experts(Tensor expert_begin, int64_t choices) {
  const int64_t experts = expert_begin.dim(0) - 1;
  if (!readable(expert_begin)) return std::min(experts, choices);
  const auto begin = expert_begin.view<int32_t, 1>();
  int64_t busy = 0;
  for (int64_t e = 0; e < experts; ++e) busy += begin(e + 1) > begin(e);
  return busy;
}

Products expert_products(Products of_all_rows, Tensor expert_begin, int64_t choices) {
  const int64_t busy = busy_experts(expert_begin, choices), kept = kept_choices(expert_begin, choices);
  if (busy == 0) return {};
  for (MatrixProduct& p : of_all_rows) {
    int64_t& rows = p.layout == ProductLayout::tn ? p.k : p.m;
    p.flops *= double(kept) / double(rows);
    rows = (kept + busy - 1) / busy;
    p.count = busy;
  }
  return of_all_rows;
}

Products lightning_products(Tensor o, int64_t longest) {
  const Blocks b = lightning_blocks(o, longest);
  const double head_rows = double(o.dim(0)) * double(o.dim(1)), width = double(b.width);
  const double triangle = head_rows * kGrid * width, state = head_rows * 2 * width * width;
  return {tiles(b.scores(), 2 * triangle, triangle), tiles(b.of_values(), 2 * triangle, triangle),
          tiles(b.of_state(), state, state), tiles(b.to_state(), state, state)};
}

Products lightning_backward_products(Tensor d_o, int64_t longest) {
  const Blocks b = lightning_blocks(d_o, longest);
  const double head_rows = double(d_o.dim(0)) * double(d_o.dim(1)), width = double(b.width);
  const double triangle = head_rows * kGrid * width, state = head_rows * 2 * width * width;
  return {tiles(b.scores(), 4 * triangle, 2 * triangle),
          tiles(b.of_values(), 2 * triangle, triangle),
          tiles(b.of_rows(), 4 * triangle, 2 * triangle),
          tiles(b.of_state_transposed(), 2 * state, 2 * state),
          tiles(b.of_state(), state, state),
          tiles(b.to_state(), 2 * state, 2 * state)};
}

double seen_keys(Tensor positions, int64_t longest) {
  if (!readable(positions)) return double(positions.dim(0)) * double(longest + 1) / 2;
  const auto position = positions.view<int64_t, 1>();
  double keys = 0;
  for (int64_t row = 0; row < position.shape[0]; ++row) keys += double(position(row) + 1);
  return keys;
}

double known_positions(Tensor positions, Tensor row_begin, int64_t longest) {
  if (!readable(positions) || !readable(row_begin)) return double(longest) * double(row_begin.dim(0) - 1);
  const auto position = positions.view<int64_t, 1>();
  const auto begin = row_begin.view<int32_t, 1>();
  double known = 0;
  for (int64_t s = 0; s + 1 < begin.shape[0]; ++s)
    if (begin(s + 1) > begin(s)) known += double(position(begin(s + 1) - 1) + 1);
  return known;
}

Products softmax_products(Tensor q, int64_t kv_heads, Tensor positions, int64_t longest) {
  const Blocks b = softmax_blocks(q, kv_heads, longest);
  const double one = 2 * double(b.width) * double(q.dim(1)) * seen_keys(positions, longest);
  return {tiles(b.scores(), one, one), tiles(b.of_values(), one, one)};
}

Products softmax_backward_products(Tensor q, int64_t kv_heads, Tensor positions, int64_t longest) {
  const Blocks b = softmax_blocks(q, kv_heads, longest);
  const double one = 2 * double(b.width) * double(q.dim(1)) * seen_keys(positions, longest);
  return {tiles(b.scores(), 2 * one, 2 * one), tiles(b.of_values(), one, one), tiles(b.of_rows(), 2 * one, 2 * one)};
}

}  // namespace fulgur
