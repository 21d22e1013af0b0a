// y = (x * inverse) * weight, and dx = inverse * (dy * weight - x * inverse^2 * mean(dy * weight * x)).
#include "ops/rms_norm.h"

#include <cmath>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const RmsNorm& op) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x);
  const T* weight = op.weight.elements<T>();
  W* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<W>() : nullptr;
  const int64_t width = x.width;
  for_rows(threads, x.count, width, [&](int64_t row) {
    const W inverse = 1 / std::sqrt(row_dot<T>(x[row], x[row], width) / W(width) + W(op.eps));
    if (inverse_rms) inverse_rms[row] = inverse;
    row_scale_mul<T>(y[row], x[row], inverse, weight, width);
  });
}

template <class T>
void backward(Threads& threads, const RmsNormBackward& op) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(op.dx), x = rows_of<T>(op.x);
  Rows<T> dy = rows_of<T>(op.dy);
  const T* weight = op.weight.elements<T>();
  const W* inverse_rms = op.inverse_rms.elements<W>();
  W* dweight = op.dweight.elements<W>();
  const int64_t width = x.width;
  if (op.carried) {
    const Rows<T> carried = rows_of<T>(op.carried);
    for_rows(threads, x.count, width,
             [&](int64_t row) { row_blend<T>(dx[row], dy[row], W(1), carried[row], W(op.alpha), width); });
    dy = dx;
  }
  // First, because dx may take the place of dy.
  for_columns(threads, width, [&](int64_t begin, int64_t end) {
    rows_add_products<T>(dweight + begin, dy[0] + begin, dy.stride, inverse_rms, x[0] + begin, x.stride, x.count,
                         end - begin);
  });
  for_rows(threads, x.count, width, [&](int64_t row) {
    const W along = row_dot3<T>(dy[row], weight, x[row], width) / W(width);  // the part that only rescales the row
    const W inverse = inverse_rms[row], pull = -along * inverse * inverse * inverse;
    row_blend_mul<T>(dx[row], dy[row], weight, inverse, x[row], pull, width);
  });
}

}  // namespace

void rms_norm(Stream& stream, const RmsNorm& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void rms_norm_backward(Stream& stream, const RmsNormBackward& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
