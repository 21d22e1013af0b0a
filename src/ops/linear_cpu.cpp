#include "ops/linear.h"

#include "ops/cpu/matrices.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {

void linear(Stream& stream, const Linear& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    gemm(stream.threads(), product_of<T>({.c = op.y, .a = op.x, .b = transposed(op.w.values)}));
  });
}

void linear_backward(Stream& stream, const LinearBackward& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    const ProductOf<T> products[] = {
        product_of<T>({.c = op.dx, .a = op.dy, .b = op.w.values, .store = op.dx_store}),
        product_of<T>({.c = op.dw, .a = transposed(op.dy), .b = op.x, .store = Store::add})};
    gemm_batch(stream.threads(), products, 2);
  });
}

}  // namespace fulgur::cpu
