// The products of linear for each expert's rows; which block takes which rows, the device finds in expert_begin.
#include "ops/cuda/clear_surplus.cuh"
#include "ops/cuda/dequantise.cuh"
#include "ops/cuda/expert_factors.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace {

template <class T>
Factors<T, T, T> factors_of(const ExpertLinear& op) {
  return {.a = strided<const T>(op.x),
          .b = {},
          .c = strided<T>(op.y),
          .m = op.x.dim(0),
          .n = op.w.out(),
          .k = op.w.in(),
          .adds = false,
          .groups = experts_of(op.expert_begin)};
}

template <class T>
void multiply_experts(Stream& stream, const ExpertLinear& op, const Factors<T, T, T>& y) {
  if constexpr (std::is_same_v<T, bf16>)
    if (multiply_on_hopper(stream, "expert_linear", y)) return;
  multiply<false, true, true>(stream, "expert_linear", y);
  clear_surplus<T>(stream, "expert_linear", op.y, op.expert_begin);
}

template <class T>
void forward(Stream& stream, const ExpertLinear& op) {
  Factors<T, T, T> y = factors_of<T>(op);
  y.b = turned(weights_of<T>(op.w)), y.groups.b_apart = op.w.values.stride[0];
  multiply_experts(stream, op, y);
}

// Few rows of a bf16 run read int8 on Hopper; else the experts that have rows are dequantised first, for this call.
template <class T>
void forward_quantised(Stream& stream, const ExpertLinear& op) {
  Factors<T, T, T> y = factors_of<T>(op);
  y.b = {nullptr, 1, y.k}, y.groups.b_apart = y.n * y.k;
  const QuantisedWeights w = quantised_weights(op.w);
  if constexpr (std::is_same_v<T, bf16>)
    if (multiply_few_on_hopper(stream, "expert_linear", y, w)) return;
  const Scratch scratch(stream, size_t(y.groups.count * y.n * y.k) * sizeof(T));
  dequantise_busy(stream, "expert_linear", y, w, scratch.as<T>());
  y.b.data = scratch.as<T>();
  multiply_experts(stream, op, y);
}

template <class T>
void backward(Stream& stream, const ExpertLinearBackward& op) {
  const Factors<T, T, T> dx = input_gradient_of<T>(op);
  const Factors<T, T, float> dw = weight_gradient_of<T>(op);
  if constexpr (std::is_same_v<T, bf16>)
    if (multiply_on_hopper(stream, "expert_linear_backward", dx, dw)) return;
  if (!dw.adds) clear(stream, op.dw);  // of experts without rows too
  multiply<false, true, false>(stream, "expert_linear_backward", dx);
  multiply<true, false, false>(stream, "expert_linear_backward", dw);
  clear_surplus<T>(stream, "expert_linear_backward", op.dx, op.expert_begin);
}

}  // namespace

void expert_linear(Stream& stream, const ExpertLinear& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    if (op.w.scales) forward_quantised<T>(stream, op);
    else forward<T>(stream, op);
  });
}

void expert_linear_backward(Stream& stream, const ExpertLinearBackward& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { backward<T>(stream, op); });
}

}  // namespace fulgur::cuda
