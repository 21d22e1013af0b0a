#include "ops/linear.h"

#include "ops/cpu/gemm.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
Matrix<const T> read(const Tensor& t) {
  const auto v = t.view<T, 2>();
  return {v.data, v.stride[0], v.stride[1]};
}

template <class T>
Matrix<T> written(const Tensor& t) {
  const auto v = t.view<T, 2>();
  expect(v.stride[1] == 1 || v.shape[1] == 1, "columns of a product's output lie side by side");
  return {v.data, v.stride[0], 1};
}

}  // namespace

void linear(Stream& stream, const Linear& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() {
    gemm<T>(stream.threads(), {.c = written<T>(op.y),
                               .a = read<T>(op.x),
                               .b = read<T>(op.w.values).transposed(),
                               .m = op.x.dim(0),
                               .n = op.w.out(),
                               .k = op.w.in()});
  });
}

void linear_backward(Stream& stream, const LinearBackward& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() {
    const Product<T> products[] = {{.c = written<T>(op.dx),
                                    .a = read<T>(op.dy),
                                    .b = read<T>(op.w.values),
                                    .m = op.x.dim(0),
                                    .n = op.w.in(),
                                    .k = op.w.out(),
                                    .store = op.dx_store},
                                   {.c = written<T>(op.dw),
                                    .a = read<T>(op.dy).transposed(),
                                    .b = read<T>(op.x),
                                    .m = op.w.out(),
                                    .n = op.w.in(),
                                    .k = op.x.dim(0),
                                    .store = Store::add}};
    gemm_batch(stream.threads(), products, 2);
  });
}

}  // namespace fulgur::cpu
