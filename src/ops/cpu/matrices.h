// Tensors as the operands of a matrix product in any run type.
#pragma once
#include <type_traits>
#include <utility>

#include "ops/cpu/gemm.h"
#include "ops/cpu/gemm_bf16.h"

namespace fulgur::cpu {

// c = a * b, or added to c; rank 2. In bf16 runs each of them is bf16 or f32.
struct Matrices {
  Tensor c, a, b;
  Store store = Store::overwrite;
  Tensor scales = {};  // f32 [n, scale_count(k)] of a b that is a transposed i8 matrix
};

inline Tensor transposed(Tensor matrix) {
  std::swap(matrix.shape[0], matrix.shape[1]), std::swap(matrix.stride[0], matrix.stride[1]);
  return matrix;
}

template <class T>
using ProductOf = std::conditional_t<std::is_same_v<T, bf16>, Bf16Product, Product<T>>;

inline Bf16Input bf16_input(const Tensor& t) {
  expect(t.dtype == DType::bf16 || t.dtype == DType::f32, "an operand of a bf16 product is bf16 or f32");
  const int64_t column_stride = t.dim(1) == 1 ? 1 : t.stride[1];  // the stride of a lone row or column says nothing
  const int64_t row_stride = t.dim(0) == 1 && column_stride != 1 ? 1 : t.stride[0];
  expect(row_stride == 1 || column_stride == 1, "rows or columns of a product's operand lie side by side");
  return {t.data, t.dtype, row_stride, column_stride};
}

// Its place is that of a bf16 matrix, whose strides are those of one that was dequantised.
inline QuantisedColumns quantised_columns(const Tensor& b, const Tensor& scales) {
  if (!scales) return {};
  expect(b.stride[0] == 1 || b.dim(0) <= 1, "the columns of a quantised matrix lie end to end");
  expect(scales.stride[1] == 1 || scales.dim(1) <= 1, "the scales of a column lie end to end");
  return {b.view<int8_t, 2>().data, scales.view<float, 2>().data, b.stride[1], scales.stride[0]};
}

template <class T>
ProductOf<T> product_of(const Matrices& p) {
  expect(p.c.stride[1] == 1 || p.c.dim(1) == 1, "columns of a product's output lie side by side");
  if constexpr (std::is_same_v<T, bf16>) {
    return {.c = {p.c.data, p.c.dtype, p.c.stride[0]},
            .a = bf16_input(p.a),
            .b = p.scales ? Bf16Input{nullptr, DType::bf16, 1, p.a.dim(1)} : bf16_input(p.b),
            .m = p.c.dim(0),
            .n = p.c.dim(1),
            .k = p.a.dim(1),
            .store = p.store,
            .quantised = quantised_columns(p.b, p.scales)};
  } else {
    const auto matrix = [](const Tensor& t) {
      const View<T, 2> v = t.view<T, 2>();
      return Matrix<const T>{v.data, v.stride[0], v.stride[1]};
    };
    return {.c = {p.c.view<T, 2>().data, p.c.stride[0], 1},
            .a = matrix(p.a),
            .b = p.scales ? Matrix<const T>{nullptr, 1, p.a.dim(1)} : matrix(p.b),
            .m = p.c.dim(0),
            .n = p.c.dim(1),
            .k = p.a.dim(1),
            .store = p.store,
            .quantised = quantised_columns(p.b, p.scales)};
  }
}

}  // namespace fulgur::cpu
