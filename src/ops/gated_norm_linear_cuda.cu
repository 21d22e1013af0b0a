// In one launch where rows are few, their norm is not kept, and Hopper's kernels can; else the two operators that it
// stands for.
#include "ops/cuda/hopper_few_rows_normed.cuh"
#include "ops/gated_norm_linear.h"

namespace fulgur::cuda {
namespace {

// Every block computes the norm of all rows: of more, a launch for it alone takes less (of 32 x 1,024 13 us instead of
// 18, on an H100).
constexpr int64_t kFewElements = int64_t(32) << 10;

bool at_once(Stream& stream, const GatedNormLinear& op) {
  using namespace hopper_products;
  if (op.kept || !aligned(op.x, op.gate, op.weight) || op.x.count() > kFewElements) return false;
  return multiply_made(stream, "gated_norm_linear", op.product(), [&] {
    return GatedRows{.x = rows_of<const bf16>(op.x),
                     .gate = rows_of<const bf16>(op.gate),
                     .weight = op.weight.elements<bf16>(),
                     .squares = rows_of<const float>(op.squares),
                     .whole_width = float(op.whole_width),
                     .eps = float(op.eps)};
  });
}

}  // namespace

void gated_norm_linear(Stream& stream, const GatedNormLinear& op) {
  if (at_once(stream, op)) return;
  cuda::gated_rms_norm(stream, op.norm());
  cuda::linear(stream, op.product());
}

}  // namespace fulgur::cuda
