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
    W squares = 0;
    for_pieces<T>(0, width, [&](int64_t at, int64_t n) {
      const Widened<T> in(x[row] + at, n);
      squares += row_dot<W>(in, in, n);
    });
    const W inverse = 1 / std::sqrt(squares / W(width) + W(op.eps));
    if (inverse_rms) inverse_rms[row] = inverse;
    for_pieces<T>(0, width, [&](int64_t at, int64_t n) {
      const Widened<T> in(x[row] + at, n), scale(weight + at, n);
      Rounded<T> out(y[row] + at, n);
      row_scale_mul<W>(out, in, inverse, scale, n);
    });
  });
}

template <class T>
void backward(Threads& threads, const RmsNormBackward& op) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(op.dx), dy = rows_of<T>(op.dy), x = rows_of<T>(op.x);
  const T* weight = op.weight.elements<T>();
  const W* inverse_rms = op.inverse_rms.elements<W>();
  W* dweight = op.dweight.elements<W>();
  const int64_t width = x.width;
  // First, because dx may take the place of dy.
  for_columns(threads, width, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    for (int64_t row = 0; row < x.count; ++row) {
      const Widened<T> flow(dy[row] + begin, n), in(x[row] + begin, n);
      row_add_scaled_mul<W>(dweight + begin, flow, inverse_rms[row], in, n);
    }
  });
  for_rows(threads, x.count, width, [&](int64_t row) {
    W along = 0;  // the part that only rescales the row
    for_pieces<T>(0, width, [&](int64_t at, int64_t n) {
      const Widened<T> flow(dy[row] + at, n), scale(weight + at, n), in(x[row] + at, n);
      along += row_dot3<W>(flow, scale, in, n);
    });
    along /= W(width);
    const W inverse = inverse_rms[row], pull = -along * inverse * inverse * inverse;
    for_pieces<T>(0, width, [&](int64_t at, int64_t n) {
      const Widened<T> flow(dy[row] + at, n), scale(weight + at, n), in(x[row] + at, n);
      Rounded<T> out(dx[row] + at, n);
      row_blend_mul<W>(out, flow, scale, inverse, in, pull, n);
    });
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
