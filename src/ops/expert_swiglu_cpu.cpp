#include "ops/expert_swiglu.h"

#include "ops/swiglu.h"
#include "ops/take_rows.h"

namespace fulgur::cpu {

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  cpu::take_rows(stream, {.y = op.grouped, .x = op.x, .rows = op.rows});
  cpu::expert_linear(stream, {.y = op.gate, .x = op.grouped, .w = op.w_gate, .expert_begin = op.expert_begin});
  cpu::expert_linear(stream, {.y = op.up, .x = op.grouped, .w = op.w_up, .expert_begin = op.expert_begin});
  cpu::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
}

void expert_swiglu_backward(Stream& stream, const ExpertSwigluBackward& op) {
  cpu::expert_linear_backward(stream, op.of_matrix());
  cpu::swiglu_backward(stream, {.dgate = op.dgate, .dup = op.dup, .dy = op.dgate, .gate = op.gate, .up = op.up});
}

}  // namespace fulgur::cpu
