#include "ops/expert_swiglu.h"

#include "ops/expert_linear.h"
#include "ops/swiglu.h"
#include "ops/take_rows.h"

namespace fulgur::cpu {

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  cpu::take_rows(stream, {.y = op.grouped, .x = op.x, .rows = op.rows});
  cpu::expert_linear(stream, {.y = op.gate, .x = op.grouped, .w = op.w_gate, .expert_begin = op.expert_begin});
  cpu::expert_linear(stream, {.y = op.up, .x = op.grouped, .w = op.w_up, .expert_begin = op.expert_begin});
  cpu::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
}

}  // namespace fulgur::cpu
