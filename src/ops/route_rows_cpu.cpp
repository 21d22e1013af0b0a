#include "ops/route_rows.h"

namespace fulgur::cpu {

void route_rows(Stream& stream, const RouteRows& op) {
  cpu::linear(stream, op.product());
  cpu::route_experts(stream, op.choice());
  cpu::group_rows(stream, op.grouping());
}

}  // namespace fulgur::cpu
