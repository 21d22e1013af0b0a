// Few rows in one launch, else the operators that it stands for.
#include "ops/cuda/route_few_rows.cuh"
#include "ops/route_rows.h"

namespace fulgur::cuda {

void route_rows(Stream& stream, const RouteRows& op) {
  if (few_routes::route_at_once(stream, "route_rows", op, few_routes::StoredRows{})) return;
  cuda::linear(stream, op.product());
  cuda::route_experts(stream, op.choice());
  cuda::group_rows(stream, op.grouping());
}

}  // namespace fulgur::cuda
