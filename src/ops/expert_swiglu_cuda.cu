// In one launch where Hopper's kernels can; else the operators that it stands for.
#include "ops/cuda/clear_surplus.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/rows.cuh"
#include "ops/expert_linear.h"
#include "ops/expert_swiglu.h"
#include "ops/swiglu.h"

namespace fulgur::cuda {
namespace {

Strided<const bf16> turned_weights(const Weight& w) { return {w.values.view<bf16, 3>().data, 1, w.values.stride[1]}; }

bool run_on_hopper(Stream& stream, const ExpertSwiglu& op) {
  if (op.x.dtype != DType::bf16 || op.w_gate.scales || op.w_up.scales) return false;
  if (op.w_gate.values.stride != op.w_up.values.stride) return false;
  const Groups groups{.begin = op.expert_begin.elements<int32_t>(),
                      .count = op.expert_begin.dim(0) - 1,
                      .b_apart = op.w_gate.values.stride[0]};
  const Rows<const bf16> x = rows_of<const bf16>(op.x);
  const Factors<bf16, bf16, bf16> y{.a = {x.data, x.stride, 1},
                                    .b = turned_weights(op.w_gate),
                                    .c = {op.y.elements<bf16>(), op.y.dim(1), 1},
                                    .m = x.count,
                                    .n = op.y.dim(1),
                                    .k = x.width,
                                    .adds = false,
                                    .groups = groups};
  return multiply_gated_on_hopper(stream, "expert_swiglu", y,
                                  {.up_weights = turned_weights(op.w_up),
                                   .gate = op.kept ? op.gate.elements<bf16>() : nullptr,
                                   .up = op.kept ? op.up.elements<bf16>() : nullptr});
}

}  // namespace

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  if (!run_on_hopper(stream, op)) {
    cuda::expert_linear(stream, {.y = op.gate, .x = op.x, .w = op.w_gate, .expert_begin = op.expert_begin});
    cuda::expert_linear(stream, {.y = op.up, .x = op.x, .w = op.w_up, .expert_begin = op.expert_begin});
    return cuda::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
  }
  clear_surplus<bf16>(stream, "expert_swiglu", op.y, op.expert_begin);
  if (!op.kept) return;
  clear_surplus<bf16>(stream, "expert_swiglu", op.gate, op.expert_begin);
  clear_surplus<bf16>(stream, "expert_swiglu", op.up, op.expert_begin);
}

}  // namespace fulgur::cuda
