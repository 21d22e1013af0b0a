// y = x w^T; dx = dy w; dw += dy^T x: one product each.
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/products.cuh"
#include "ops/linear.h"

namespace fulgur::cuda {
namespace {

template <class T, class Y>
void forward(Stream& stream, const Linear& op) {
  const Factors<T, T, Y> y{.a = strided<const T>(op.x),
                           .b = turned(strided<const T>(op.w.values)),
                           .c = strided<Y>(op.y),
                           .m = op.x.dim(0),
                           .n = op.w.out(),
                           .k = op.w.in(),
                           .adds = false,
                           .groups = {}};
  if constexpr (std::is_same_v<T, bf16>)
    if (multiply_on_hopper(stream, "linear", y)) return;
  multiply<false, true, true>(stream, "linear", y);
}

template <class T, class Y>
void backward(Stream& stream, const LinearBackward& op) {
  const int64_t rows = op.x.dim(0), out = op.w.out(), in = op.w.in();
  const Strided<const Y> dy = strided<const Y>(op.dy);
  const Factors<Y, T, T> dx{.a = dy,
                            .b = strided<const T>(op.w.values),
                            .c = strided<T>(op.dx),
                            .m = rows,
                            .n = in,
                            .k = out,
                            .adds = op.dx_store == Store::add,
                            .groups = {}};
  const Factors<Y, T, float> dw{.a = turned(dy),
                                .b = strided<const T>(op.x),
                                .c = strided<float>(op.dw),
                                .m = out,
                                .n = in,
                                .k = rows,
                                .adds = true,
                                .groups = {}};
  if constexpr (std::is_same_v<T, bf16>)
    if (multiply_on_hopper(stream, "linear_backward", dx, dw)) return;
  multiply<false, true, false>(stream, "linear_backward", dx);
  multiply<true, false, false>(stream, "linear_backward", dw);
}

}  // namespace

void linear(Stream& stream, const Linear& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    with_cuda_type(op.y.dtype, [&]<class Y>() {
      if constexpr (sizeof(Y) >= sizeof(T)) forward<T, Y>(stream, op);
    });
  });
}

void linear_backward(Stream& stream, const LinearBackward& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    with_cuda_type(op.dy.dtype, [&]<class Y>() {
      if constexpr (sizeof(Y) >= sizeof(T)) backward<T, Y>(stream, op);
    });
  });
}

}  // namespace fulgur::cuda
