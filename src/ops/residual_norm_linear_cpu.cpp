#include "ops/residual_norm_linear.h"

namespace fulgur::cpu {

void residual_norm_linear(Stream& stream, const ResidualNormLinear& op) {
  cpu::residual_norm(stream, op.join);
  cpu::linear(stream, op.product());
}

}  // namespace fulgur::cpu
