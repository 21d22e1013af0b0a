#include "ops/expert_swiglu.h"

#include "ops/expert_linear.h"
#include "ops/swiglu.h"

namespace fulgur::cpu {

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  cpu::expert_linear(stream, {.y = op.gate, .x = op.x, .w = op.w_gate, .expert_begin = op.expert_begin});
  cpu::expert_linear(stream, {.y = op.up, .x = op.x, .w = op.w_up, .expert_begin = op.expert_begin});
  cpu::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
}

}  // namespace fulgur::cpu
