#include "ops/gated_norm_linear.h"

namespace fulgur::cpu {

void gated_norm_linear(Stream& stream, const GatedNormLinear& op) {
  cpu::gated_rms_norm(stream, op.norm());
  cpu::linear(stream, op.product());
}

}  // namespace fulgur::cpu
