// In one launch where rows are few and Hopper's kernels can; else the operators that it stands for, of which those
// kernels have the last three in one.
#include <optional>

#include "ops/cuda/clear_surplus.cuh"
#include "ops/cuda/dequantise.cuh"
#include "ops/cuda/expert_factors.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/scratch.cuh"
#include "ops/expert_swiglu.h"
#include "ops/swiglu.h"
#include "ops/take_rows.h"

namespace fulgur::cuda {
namespace {

Strided<const bf16> turned_weights(const Weight& w) { return {w.values.view<bf16, 3>().data, 1, w.values.stride[1]}; }

Groups experts_of(const ExpertSwiglu& op) {
  return {.begin = op.expert_begin.elements<int32_t>(),
          .count = op.expert_begin.dim(0) - 1,
          .b_apart = op.w_gate.values.stride[0]};
}
// Of rows of x, or of `grouped`; without weights.
Factors<bf16, bf16, bf16> factors_of(const ExpertSwiglu& op, const Tensor& of) {
  const Rows<const bf16> x = rows_of<const bf16>(of);
  return {.a = {x.data, x.stride, 1},
          .b = {nullptr, 1, x.width},
          .c = {op.y.elements<bf16>(), op.y.dim(1), 1},
          .m = op.y.dim(0),
          .n = op.y.dim(1),
          .k = x.width,
          .adds = false,
          .groups = experts_of(op)};
}
Gated gated_of(const ExpertSwiglu& op, const Strided<const bf16>& up_weights) {
  return {.up_weights = up_weights,
          .gate = op.kept ? op.gate.elements<bf16>() : nullptr,
          .up = op.kept ? op.up.elements<bf16>() : nullptr};
}
bool can_be_gated_at_once(const ExpertSwiglu& op) {
  return op.x.dtype == DType::bf16 && bool(op.w_gate.scales) == bool(op.w_up.scales) &&
         op.w_gate.values.stride == op.w_up.values.stride && op.w_gate.scales.stride == op.w_up.scales.stride;
}

void clear_kept(Stream& stream, const ExpertSwiglu& op) {
  if (!op.kept) return;
  clear_surplus<bf16>(stream, "expert_swiglu", op.gate, op.expert_begin);
  clear_surplus<bf16>(stream, "expert_swiglu", op.up, op.expert_begin);
}

// Gathers rows of x too, which `grouped` then does not hold.
bool run_few_rows(Stream& stream, const ExpertSwiglu& op) {
  if (!can_be_gated_at_once(op)) return false;
  Factors<bf16, bf16, bf16> y = factors_of(op, op.x);
  const Gather gather{op.rows.elements<int32_t>(), op.x.dim(0)};
  bool done = false;
  if (op.w_gate.scales) {
    done = multiply_few_gated_on_hopper(stream, "expert_swiglu", y, gated_of(op, y.b), gather,
                                        quantised_weights(op.w_gate), quantised_weights(op.w_up));
  } else {
    y.b = turned_weights(op.w_gate);
    done = multiply_few_gated_on_hopper(stream, "expert_swiglu", y, gated_of(op, turned_weights(op.w_up)), gather);
  }
  if (!done) return false;
  clear_kept(stream, op);
  return true;
}

// Many rows repay a pass that dequantises the weights.
bool run_many_rows(Stream& stream, const ExpertSwiglu& op) {
  if (!can_be_gated_at_once(op)) return false;
  Factors<bf16, bf16, bf16> y = factors_of(op, op.grouped);
  if (!is_hopper() || has_few_rows(y)) return false;
  Strided<const bf16> up = y.b;
  std::optional<Scratch> dequantised;
  if (!op.w_gate.scales) {
    y.b = turned_weights(op.w_gate), up = turned_weights(op.w_up);
  } else {
    const int64_t elements = y.groups.count * y.n * y.k;
    bf16* const to = dequantised.emplace(stream, size_t(2 * elements) * sizeof(bf16)).as<bf16>();
    y.groups.b_apart = y.n * y.k, y.b.data = to, up.data = to + elements;
    dequantise_busy(stream, "expert_swiglu", y, quantised_weights(op.w_gate), to);
    dequantise_busy(stream, "expert_swiglu", y, quantised_weights(op.w_up), to + elements);
  }
  return multiply_gated_on_hopper(stream, "expert_swiglu", y, gated_of(op, up));
}

bool run_on_hopper(Stream& stream, const ExpertSwigluBackward& op) {
  if (op.dy.dtype != DType::bf16 || op.dgate.stride[0] != op.dup.stride[0]) return false;
  const ExpertLinearBackward matrix = op.of_matrix();
  const GateFactors factors{op.gate.elements<bf16>(), op.up.elements<bf16>(), op.w.in(), op.dup.view<bf16, 2>().data};
  return multiply_gated_on_hopper(stream, "expert_swiglu_backward", input_gradient_of<bf16>(matrix),
                                  weight_gradient_of<bf16>(matrix), factors);
}

}  // namespace

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  const bool done = run_few_rows(stream, op);
  if (done && !op.kept) return;
  cuda::take_rows(stream, {.y = op.grouped, .x = op.x, .rows = op.rows});
  if (done || run_many_rows(stream, op)) return;
  cuda::expert_linear(stream, {.y = op.gate, .x = op.grouped, .w = op.w_gate, .expert_begin = op.expert_begin});
  cuda::expert_linear(stream, {.y = op.up, .x = op.grouped, .w = op.w_up, .expert_begin = op.expert_begin});
  cuda::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
}

void expert_swiglu_backward(Stream& stream, const ExpertSwigluBackward& op) {
  if (!run_on_hopper(stream, op)) {
    cuda::expert_linear_backward(stream, op.of_matrix());
    cuda::swiglu_backward(stream, {.dgate = op.dgate, .dup = op.dup, .dy = op.dgate, .gate = op.gate, .up = op.up});
  }
}

}  // namespace fulgur::cuda
