#include "ops/expert_linear.h"

#include <cstring>
#include <type_traits>
#include <vector>

#include "ops/cpu/gemm.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// A row range of a matrix, as one operand of an expert's product.
template <class T>
Matrix<T> matrix(const Tensor& t) {
  const auto v = t.view<std::remove_const_t<T>, 2>();
  return {v.data, v.stride[0], v.stride[1]};
}

template <class T>
Matrix<T> written(const Tensor& t) {
  expect(t.stride[1] == 1 || t.dim(1) == 1, "columns of a product's output lie side by side");
  Matrix<T> m = matrix<T>(t);
  m.column_stride = 1;
  return m;
}

// visit(expert, first row, row after the last).
template <class Visit>
void for_each_expert(const Tensor& expert_begin, int64_t rows, Visit&& visit) {
  const auto begin = expert_begin.view<int32_t, 1>();
  for (int64_t expert = 0; expert + 1 < begin.shape[0]; ++expert) {
    const int64_t first = begin(expert), last = begin(expert + 1);
    expect(0 <= first && first <= last && last <= rows, "experts' rows ascend within the choices");
    visit(expert, first, last);
  }
}

// Rows of no expert become zero.
void clear_surplus(const Tensor& y, const Tensor& expert_begin) {
  const int64_t width = y.dim(1) * byte_size(y.dtype), stride = y.stride[0] * byte_size(y.dtype);
  for (int64_t row = expert_begin.elements<int32_t>()[expert_begin.dim(0) - 1]; row < y.dim(0); ++row)
    std::memset(y.data + row * stride, 0, size_t(width));
}

}  // namespace

void expert_linear(Stream& stream, const ExpertLinear& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() {
    std::vector<Product<T>> products;
    products.reserve(size_t(op.w.values.dim(0)));
    for_each_expert(op.expert_begin, op.x.dim(0), [&](int64_t expert, int64_t first, int64_t last) {
      products.push_back({.c = written<T>(op.y.rows(first, last)),
                          .a = matrix<const T>(op.x.rows(first, last)),
                          .b = matrix<const T>(op.w.values.at(expert)).transposed(),
                          .m = last - first,
                          .n = op.w.out(),
                          .k = op.w.in()});
    });
    gemm_batch(stream.threads(), products.data(), int64_t(products.size()));
  });
  clear_surplus(op.y, op.expert_begin);
}

void expert_linear_backward(Stream& stream, const ExpertLinearBackward& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() {
    std::vector<Product<T>> products;
    products.reserve(size_t(op.w.values.dim(0)) * 2);
    for_each_expert(op.expert_begin, op.x.dim(0), [&](int64_t expert, int64_t first, int64_t last) {
      const auto dy = matrix<const T>(op.dy.rows(first, last));
      products.push_back({.c = written<T>(op.dx.rows(first, last)),
                          .a = dy,
                          .b = matrix<const T>(op.w.values.at(expert)),
                          .m = last - first,
                          .n = op.w.in(),
                          .k = op.w.out()});
      products.push_back({.c = written<T>(op.dw.at(expert)),
                          .a = dy.transposed(),
                          .b = matrix<const T>(op.x.rows(first, last)),
                          .m = op.w.out(),
                          .n = op.w.in(),
                          .k = last - first,
                          .store = Store::add});
    });
    gemm_batch(stream.threads(), products.data(), int64_t(products.size()));
  });
  clear_surplus(op.dx, op.expert_begin);
}

}  // namespace fulgur::cpu
