// y = x * w_e^T for rows grouped by expert e: a product per expert over its own rows. Row offsets stay on the device.
// Rows from expert_begin[experts] on belong to no expert (dropped choices leave them over): of inputs they are not
// read, of outputs they become zero. Experts' matrices may lie further apart than their size. Quantised weights give
// the bits of those that `dequantised` makes of them (ops/weight.h); they have no gradients.
#pragma once
#include "ops/operator.h"
#include "ops/products.h"

namespace fulgur {

struct ExpertLinear {
  Tensor y;             // [choices, out]
  Tensor x;             // [choices, in], rows of expert e are [expert_begin[e], expert_begin[e + 1])
  Weight w;             // [experts, out, in], may be quantised
  Tensor expert_begin;  // i32 [experts + 1]

  auto operands() const { return std::tuple{out(y), in(x), in(w), in(expert_begin)}; }
  Products products() const { return expert_products({output_product(y, x, w)}, expert_begin, x.dim(0)); }
  int64_t bytes() const {  // the weights of experts that have rows
    return y.bytes() + x.bytes() + busy_experts(expert_begin, x.dim(0)) * bytes_of_expert(w);
  }
  void check() const {
    expect(w.values.rank == 3 && x.rank == 2 && x.dim(1) == w.in(), "x has the experts' inputs");
    expect(y.is(x.dtype, {x.dim(0), w.out()}), "y has the experts' outputs");
    expect(expert_begin.is(DType::i32, {w.values.dim(0) + 1}), "one range of rows per expert");
    expect_sound(w);
  }
};

struct ExpertLinearBackward {
  Tensor dx;            // [choices, in], overwritten
  Tensor dw;            // wide [experts, out, in], accumulated: rows ascending from the value already there, or zero
  Tensor dy;            // [choices, out]
  Tensor x;             // [choices, in]
  Weight w;             // [experts, out, in]
  Tensor expert_begin;  // i32 [experts + 1]
  Tensor choice_rows = {};  // i32 [choices]: the row of each choice, ascending inside an expert (group_rows); bf16
                            // alone needs it
  int64_t row_block = 0;  // dw's sums may be cut where a multiple of so many rows is passed: what two calls may divide
  Store dw_store = Store::add;  // overwrite: what was there is not read; experts without rows get zeros

  auto operands() const {
    return std::tuple{
        out(dx), dw_store == Store::add ? inout(dw) : out(dw), in(dy), in(x), in(w), in(expert_begin), in(choice_rows)};
  }
  Products products() const {
    return expert_products({input_gradient_product(dx, dy, w, false), weight_gradient_product(dw, dy, x)}, expert_begin,
                           x.dim(0));
  }
  int64_t bytes() const {
    const int64_t of_expert = w.values.at(0).bytes() + (dw_store == Store::add ? 2 : 1) * dw.at(0).bytes();
    return dx.bytes() + dy.bytes() + x.bytes() + busy_experts(expert_begin, x.dim(0)) * of_expert;
  }
  void check() const {
    expect(dx.same_shape(x) && dx.dtype == x.dtype, "dx matches x");
    expect(dw.is(wide(x.dtype), {w.values.dim(0), w.out(), w.in()}), "dw is wide and matches the weights");
    expect(x.rank == 2 && x.dim(1) == w.in(), "x has the experts' inputs");
    expect(dy.is(x.dtype, {x.dim(0), w.out()}), "dy has the experts' outputs");
    expect(expert_begin.is(DType::i32, {w.values.dim(0) + 1}), "one range of rows per expert");
    expect(!w.scales, "quantised weights have no gradients");
    expect(!choice_rows || choice_rows.is(DType::i32, {x.dim(0)}), "one row per choice");
    expect(bool(choice_rows) == (row_block > 0), "rows are cut where their numbers are known");
  }
};

FULGUR_DECLARE_OPERATOR(expert_linear, ExpertLinear)
FULGUR_DECLARE_OPERATOR(expert_linear_backward, ExpertLinearBackward)

}  // namespace fulgur
