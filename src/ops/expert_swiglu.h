// y = SiLU(g w_gate^T) * (g w_up^T), g = x[rows]: what an expert does before its last matrix, for choices grouped by
// expert (spec/model.md 2.3; gate = w1, up = w3). The bits are those of take_rows, two expert_linear and swiglu.
// Choices from expert_begin[experts] on belong to no expert: their numbers are -1, and what they have of the outputs is
// zero.
#pragma once
#include "ops/expert_linear.h"

namespace fulgur {

struct ExpertSwiglu {
  Tensor y;             // [choices, width]
  Tensor grouped;       // [choices, in]: x[rows], as expert_linear_backward wants it, or room for it
  Tensor gate, up;      // [choices, width]: the two products, as swiglu_backward wants them, or room for them
  Tensor x;             // [tokens, in]
  Tensor rows;          // i32 [choices], each in [-1, tokens): the row of x of each choice (group_rows)
  Weight w_gate, w_up;  // [experts, width, in], may be quantised
  Tensor expert_begin;  // i32 [experts + 1]: choices of expert e are [expert_begin[e], expert_begin[e + 1])
  bool kept = true;     // whether grouped, gate and up are read afterwards

  auto operands() const {
    const Access between = kept ? Access::out : Access::work;
    return std::tuple{out(y),
                      Operand{&grouped, between},
                      Operand{&gate, between},
                      Operand{&up, between},
                      in(x),
                      in(rows),
                      in(w_gate),
                      in(w_up),
                      in(expert_begin)};
  }
  Products products() const {
    return expert_products({output_product(gate, grouped, w_gate), output_product(up, grouped, w_up)}, expert_begin,
                           rows.dim(0));
  }
  int64_t bytes() const {  // the weights of experts that have rows
    const int64_t of_expert = bytes_of_expert(w_gate) + bytes_of_expert(w_up);
    return y.bytes() + (kept ? grouped.bytes() + gate.bytes() + up.bytes() : 0) + x.bytes() + rows.bytes() +
           busy_experts(expert_begin, rows.dim(0)) * of_expert;
  }
  void check() const {
    expect(w_gate.values.rank == 3 && x.rank == 2 && x.dim(1) == w_gate.in(), "x has the experts' inputs");
    expect(w_up.values.same_shape(w_gate.values), "both matrices have one shape");
    expect(rows.is(DType::i32, {y.dim(0)}), "one row per choice");
    expect(grouped.is(x.dtype, {rows.dim(0), x.dim(1)}) && grouped.dense(), "a row of inputs per choice");
    for (const Tensor* t : {&y, &gate, &up})
      expect(t->is(x.dtype, {rows.dim(0), w_gate.out()}) && t->dense(), "y, gate and up have the experts' outputs");
    expect_sound(w_gate), expect_sound(w_up);
    expect(expert_begin.is(DType::i32, {w_gate.values.dim(0) + 1}), "one range of rows per expert");
  }
};

// Back through the expert's last matrix w and through the gate: dgate and dup of y w^T, as expert_linear_backward and
// swiglu_backward have them to the bit, without y's gradient between them.
struct ExpertSwigluBackward {
  Tensor dgate, dup;        // [choices, width], overwritten; may be columns of one matrix
  Tensor dw;                // wide [experts, out, width]: as expert_linear_backward's
  Tensor dy;                // [choices, out]
  Tensor y, gate, up;       // [choices, width], as expert_swiglu left them
  Weight w;                 // [experts, out, width]
  Tensor expert_begin;      // i32 [experts + 1]
  Tensor choice_rows = {};  // i32 [choices]; this and row_block as expert_linear_backward has them
  int64_t row_block = 0;
  Store dw_store = Store::add;

  // The matrix alone, y's gradient in dgate's place.
  ExpertLinearBackward of_matrix() const {
    return {.dx = dgate,
            .dw = dw,
            .dy = dy,
            .x = y,
            .w = w,
            .expert_begin = expert_begin,
            .choice_rows = choice_rows,
            .row_block = row_block,
            .dw_store = dw_store};
  }
  auto operands() const {
    return std::tuple{out(dgate),     out(dup), dw_store == Store::add ? inout(dw) : out(dw),
                      in(dy),         in(y),    in(gate),
                      in(up),         in(w),    in(expert_begin),
                      in(choice_rows)};
  }
  Products products() const { return of_matrix().products(); }
  int64_t bytes() const { return of_matrix().bytes() + dup.bytes() + gate.bytes() + up.bytes(); }
  void check() const {
    of_matrix().check();
    for (const Tensor* t : {&dgate, &dup, &y, &gate, &up})
      expect(t->is(dy.dtype, {dy.dim(0), w.in()}), "y, gate, up and their gradients have one shape");
    expect(y.dense() && gate.dense() && up.dense(), "y, gate and up are dense");
  }
};

FULGUR_DECLARE_OPERATOR(expert_swiglu, ExpertSwiglu)
FULGUR_DECLARE_OPERATOR(expert_swiglu_backward, ExpertSwigluBackward)

}  // namespace fulgur
