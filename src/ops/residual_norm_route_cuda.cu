// Few rows in one launch, else the operators that it stands for.
#include "ops/cuda/route_few_rows.cuh"
#include "ops/residual_norm_route.h"

namespace fulgur::cuda {
namespace {

bool at_once(Stream& stream, const ResidualNormRoute& op) {
  using namespace few_routes;
  return op.join.y.dtype == DType::bf16 && can_join(op.join) &&
         route_at_once(stream, "residual_norm_route", op.routing(), JoinedRows{residual_rows_of<bf16>(op.join)});
}

}  // namespace

void residual_norm_route(Stream& stream, const ResidualNormRoute& op) {
  if (at_once(stream, op)) return;
  cuda::residual_norm(stream, op.join);
  cuda::route_rows(stream, op.routing());
}

}  // namespace fulgur::cuda
