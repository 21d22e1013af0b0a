// In one launch where rows of experts' choices are few and Hopper's kernels can; else the two operators that it stands
// for.
#include "ops/cuda/hopper_few_rows_joined.cuh"
#include "ops/residual_norm_linear.h"

namespace fulgur::cuda {
namespace {

// Blocks still read what is carried when others write.
bool lies_apart(const ResidualNorm& op) { return op.y.data != op.carried.data && op.sum.data != op.carried.data; }

bool at_once(Stream& stream, const ResidualNormLinear& op) {
  const ResidualNorm& join = op.join;
  if (!join.place || join.y.dim(1) > kWarpWidth || !aligned_rows(join) || !lies_apart(join)) return false;
  return hopper_products::multiply_made(stream, "residual_norm_linear", op.product(),
                                        [&] { return residual_rows_of<bf16>(join); });
}

}  // namespace

void residual_norm_linear(Stream& stream, const ResidualNormLinear& op) {
  if (at_once(stream, op)) return;
  cuda::residual_norm(stream, op.join);
  cuda::linear(stream, op.product());
}

}  // namespace fulgur::cuda
