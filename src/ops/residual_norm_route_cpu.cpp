#include "ops/residual_norm_route.h"

namespace fulgur::cpu {

void residual_norm_route(Stream& stream, const ResidualNormRoute& op) {
  cpu::residual_norm(stream, op.join);
  cpu::route_rows(stream, op.routing());
}

}  // namespace fulgur::cpu
