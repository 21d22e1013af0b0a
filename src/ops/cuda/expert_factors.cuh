// What experts' products are made of, from the operands of expert_linear and its gradients.
#pragma once
#include "ops/cuda/products.cuh"
#include "ops/expert_linear.h"

namespace fulgur::cuda {

inline Groups experts_of(const Tensor& expert_begin) {
  return {.begin = expert_begin.elements<int32_t>(), .count = expert_begin.dim(0) - 1};
}

template <class T>
Strided<const T> weights_of(const Weight& w) {
  return {w.values.view<T, 3>().data, w.values.stride[1], 1};
}

inline QuantisedWeights quantised_weights(const Weight& w) {
  return {w.values.view<int8_t, 3>().data, w.scales.view<float, 3>().data, w.values.stride[0], w.scales.stride[0]};
}

template <class T>
Factors<T, T, T> input_gradient_of(const ExpertLinearBackward& op) {
  Groups groups = experts_of(op.expert_begin);
  groups.b_apart = op.w.values.stride[0];
  return {.a = strided<const T>(op.dy),
          .b = weights_of<T>(op.w),
          .c = strided<T>(op.dx),
          .m = op.x.dim(0),
          .n = op.w.in(),
          .k = op.w.out(),
          .adds = false,
          .groups = groups};
}

template <class T>
Factors<T, T, float> weight_gradient_of(const ExpertLinearBackward& op) {
  Groups groups = experts_of(op.expert_begin);
  groups.c_apart = op.dw.stride[0];
  groups.numbers = op.choice_rows ? op.choice_rows.elements<int32_t>() : nullptr, groups.cut = op.row_block;
  return {.a = turned(strided<const T>(op.dy)),
          .b = strided<const T>(op.x),
          .c = {op.dw.view<float, 3>().data, op.dw.stride[1], 1},
          .m = op.w.out(),
          .n = op.w.in(),
          .k = op.x.dim(0),
          .adds = op.dw_store == Store::add,
          .groups = groups};
}

}  // namespace fulgur::cuda
