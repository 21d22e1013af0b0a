// In one launch where rows are few, their norm is not kept, and Hopper's kernels can; else the two operators that it
// stands for.
#include "ops/cuda/hopper_few_rows_normed.cuh"
#include "ops/cuda/hopper_launch.cuh"
#include "ops/cuda/products.cuh"
#include "ops/gated_norm_linear.h"

namespace fulgur::cuda {
namespace hopper_products {
namespace {

// Every block computes the norm of all of them: of more, a launch for it alone takes less (of 32 x 1,024 13 us instead
// of 18, on an H100).
constexpr int kFewRows = 8;
constexpr int64_t kFewElements = int64_t(32) << 10;

Factors<bf16, bf16, bf16> factors_of(const GatedNormLinear& op) {
  return {.a = strided<const bf16>(op.x),
          .b = turned(strided<const bf16>(op.w.values)),
          .c = strided<bf16>(op.y),
          .m = op.x.dim(0),
          .n = op.w.out(),
          .k = op.w.in(),
          .adds = false,
          .groups = {}};
}

void launch_few_normed(Stream& stream, const GatedNormLinear& op, const Factors<bf16, bf16, bf16>& f) {
  const size_t bytes = sizeof(FewRowsShared<kFewRows>) + 1024;
  const auto kernel = multiply_few_normed<kFewRows>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, "gated_norm_linear",
         {.blocks = dim3(unsigned(divide_up(f.n, kOutputs))),
          .threads = dim3(kNormedThreads),
          .shared_bytes = bytes,
          .follows = true},
         kernel,
         FewRowsNormed{.w = map_along(f.b, f.n, f.k, f.groups, 0, kOutputs),
                       .x = rows_of<const bf16>(op.x),
                       .gate = rows_of<const bf16>(op.gate),
                       .weight = op.weight.elements<bf16>(),
                       .squares = rows_of<const float>(op.squares),
                       .whole_width = float(op.whole_width),
                       .eps = float(op.eps),
                       .y = f.c.data,
                       .y_row = f.c.row,
                       .rows = int(f.m),
                       .out = int(f.n),
                       .in = int(f.k)});
}

bool run_at_once(Stream& stream, const GatedNormLinear& op) {
  if (op.kept || op.x.dtype != DType::bf16 || !aligned(op.x, op.gate, op.weight)) return false;
  const Factors<bf16, bf16, bf16> f = factors_of(op);
  if (!fits(f) || f.m > kFewRows || f.m * f.k > kFewElements) return false;
  launch_few_normed(stream, op, f);
  return true;
}

}  // namespace
}  // namespace hopper_products

void gated_norm_linear(Stream& stream, const GatedNormLinear& op) {
  if (hopper_products::run_at_once(stream, op)) return;
  cuda::gated_rms_norm(stream, op.norm());
  cuda::linear(stream, op.product());
}

}  // namespace fulgur::cuda
