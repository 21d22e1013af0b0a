// In one launch where Hopper's kernels can; else the operators that it stands for.
#include <optional>

#include "ops/cuda/clear_surplus.cuh"
#include "ops/cuda/dequantise.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/expert_linear.h"
#include "ops/expert_swiglu.h"
#include "ops/swiglu.h"

namespace fulgur::cuda {
namespace {

Strided<const bf16> turned_weights(const Weight& w) { return {w.values.view<bf16, 3>().data, 1, w.values.stride[1]}; }
QuantisedWeights quantised_weights(const Weight& w) {
  return {w.values.elements<int8_t>(), w.scales.elements<float>()};
}

// Many rows repay a pass that dequantises the weights; few read them as they are (expert_linear).
bool run_on_hopper(Stream& stream, const ExpertSwiglu& op) {
  const bool quantised = bool(op.w_gate.scales);
  if (op.x.dtype != DType::bf16 || quantised != bool(op.w_up.scales)) return false;
  if (op.w_gate.values.stride != op.w_up.values.stride) return false;
  const Groups groups{.begin = op.expert_begin.elements<int32_t>(),
                      .count = op.expert_begin.dim(0) - 1,
                      .b_apart = op.w_gate.values.stride[0]};
  const Rows<const bf16> x = rows_of<const bf16>(op.x);
  Factors<bf16, bf16, bf16> y{.a = {x.data, x.stride, 1},
                              .b = {nullptr, 1, x.width},
                              .c = {op.y.elements<bf16>(), op.y.dim(1), 1},
                              .m = x.count,
                              .n = op.y.dim(1),
                              .k = x.width,
                              .adds = false,
                              .groups = groups};
  Strided<const bf16> up = y.b;
  std::optional<Scratch> dequantised;
  if (!quantised) {
    y.b = turned_weights(op.w_gate), up = turned_weights(op.w_up);
  } else {
    if (!is_hopper() || has_few_rows(y)) return false;
    const int64_t elements = groups.count * y.n * y.k;
    bf16* const to = dequantised.emplace(stream, size_t(2 * elements) * sizeof(bf16)).as<bf16>();
    y.groups.b_apart = y.n * y.k, y.b.data = to, up.data = to + elements;
    dequantise_busy(stream, "expert_swiglu", y, quantised_weights(op.w_gate), to);
    dequantise_busy(stream, "expert_swiglu", y, quantised_weights(op.w_up), to + elements);
  }
  const Gated gated{.up_weights = up,
                    .gate = op.kept ? op.gate.elements<bf16>() : nullptr,
                    .up = op.kept ? op.up.elements<bf16>() : nullptr};
  if (!multiply_gated_on_hopper(stream, "expert_swiglu", y, gated)) return false;
  if (!has_few_rows(y)) clear_surplus<bf16>(stream, "expert_swiglu", op.y, op.expert_begin);
  if (!op.kept) return true;
  clear_surplus<bf16>(stream, "expert_swiglu", op.gate, op.expert_begin);
  clear_surplus<bf16>(stream, "expert_swiglu", op.up, op.expert_begin);
  return true;
}

}  // namespace

void expert_swiglu(Stream& stream, const ExpertSwiglu& op) {
  if (!run_on_hopper(stream, op)) {
    cuda::expert_linear(stream, {.y = op.gate, .x = op.x, .w = op.w_gate, .expert_begin = op.expert_begin});
    cuda::expert_linear(stream, {.y = op.up, .x = op.x, .w = op.w_up, .expert_begin = op.expert_begin});
    cuda::swiglu(stream, {.y = op.y, .gate = op.gate, .up = op.up});
  }
}

}  // namespace fulgur::cuda
