// y = (x * inverse) * weight, and dx = inverse * (dy * weight - x * inverse^2 * mean(dy * weight * x)).
#include "ops/rms_norm.h"

#include <cmath>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const RmsNorm& op) {
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x);
  const T* weight = op.weight.elements<T>();
  T* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<T>() : nullptr;
  const int64_t width = x.width;
  for_rows(threads, x.count, width, [&](int64_t row) {
    const T inverse = 1 / std::sqrt(row_dot<T>(x[row], x[row], width) / T(width) + T(op.eps));
    row_scale<T>(y[row], x[row], inverse, width);
    row_mul<T>(y[row], y[row], weight, width);
    if (inverse_rms) inverse_rms[row] = inverse;
  });
}

template <class T>
void backward(Threads& threads, const RmsNormBackward& op) {
  const Rows<T> dx = rows_of<T>(op.dx), dy = rows_of<T>(op.dy), x = rows_of<T>(op.x);
  const T *weight = op.weight.elements<T>(), *inverse_rms = op.inverse_rms.elements<T>();
  T* dweight = op.dweight.elements<T>();
  const int64_t width = x.width;
  // First, because dx may take the place of dy.
  for_columns(threads, width, [&](int64_t begin, int64_t end) {
    T product[kPieceColumns];
    for (int64_t row = 0; row < x.count; ++row) {
      row_mul<T>(product, dy[row] + begin, x[row] + begin, end - begin);
      row_add_scaled<T>(dweight + begin, product, inverse_rms[row], end - begin);
    }
  });
  for_rows(threads, x.count, width, [&](int64_t row) {
    const T inverse = inverse_rms[row];
    const T along = row_dot3<T>(dy[row], weight, x[row], width) / T(width);  // the part that only rescales the row
    row_mul<T>(dx[row], dy[row], weight, width);
    row_blend<T>(dx[row], dx[row], inverse, x[row], -along * inverse * inverse * inverse, width);
  });
}

}  // namespace

void rms_norm(Stream& stream, const RmsNorm& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void rms_norm_backward(Stream& stream, const RmsNormBackward& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
