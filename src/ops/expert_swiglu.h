// y = SiLU(x w_gate^T) * (x w_up^T) for rows grouped by expert: what an expert does before its last matrix
// (spec/model.md 2.3; gate = w1, up = w3). The bits are those of two expert_linear and swiglu between them. Rows from
// expert_begin[experts] on belong to no expert: they are not read, and become zero.
#pragma once
#include "ops/operator.h"
#include "ops/products.h"

namespace fulgur {

struct ExpertSwiglu {
  Tensor y;             // [choices, width]
  Tensor gate, up;      // [choices, width]: the two products, as swiglu_backward wants them, or room for them
  Tensor x;             // [choices, in], rows of expert e are [expert_begin[e], expert_begin[e + 1])
  Weight w_gate, w_up;  // [experts, width, in], may be quantised
  Tensor expert_begin;  // i32 [experts + 1]
  bool kept = true;     // whether gate and up are read afterwards

  auto operands() const {
    const Access products = kept ? Access::out : Access::work;
    return std::tuple{out(y),   Operand{&gate, products}, Operand{&up, products}, in(x), in(w_gate),
                      in(w_up), in(expert_begin)};
  }
  Products products() const {
    return expert_products({output_product(gate, x, w_gate), output_product(up, x, w_up)}, expert_begin, x.dim(0));
  }
  int64_t bytes() const {  // the weights of experts that have rows
    const int64_t of_expert = bytes_of_expert(w_gate) + bytes_of_expert(w_up);
    return (kept ? 3 : 1) * y.bytes() + x.bytes() + busy_experts(expert_begin, x.dim(0)) * of_expert;
  }
  void check() const {
    expect(w_gate.values.rank == 3 && x.rank == 2 && x.dim(1) == w_gate.in(), "x has the experts' inputs");
    expect(w_up.values.same_shape(w_gate.values), "both matrices have one shape");
    for (const Tensor* t : {&y, &gate, &up})
      expect(t->is(x.dtype, {x.dim(0), w_gate.out()}) && t->dense(), "y, gate and up have the experts' outputs");
    expect_sound(w_gate), expect_sound(w_up);
    expect(expert_begin.is(DType::i32, {w_gate.values.dim(0) + 1}), "one range of rows per expert");
  }
};

FULGUR_DECLARE_OPERATOR(expert_swiglu, ExpertSwiglu)

}  // namespace fulgur
