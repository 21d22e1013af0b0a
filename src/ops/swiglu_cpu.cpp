// Elementwise, so forward walks the matrices as one long row.
#include "ops/swiglu.h"

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const Swiglu& op) {
  T* y = op.y.elements<T>();
  const T *gate = op.gate.elements<T>(), *up = op.up.elements<T>();
  for_elements(threads, op.gate.count(),
               [&](int64_t begin, int64_t end) { row_swiglu<T>(y + begin, gate + begin, up + begin, end - begin); });
}

template <class T>
void backward(Threads& threads, const SwigluBackward& op) {
  const Rows<T> dgate = rows_of<T>(op.dgate), dup = rows_of<T>(op.dup), dy = rows_of<T>(op.dy),
                gate = rows_of<T>(op.gate), up = rows_of<T>(op.up);
  for_rows(threads, gate.count, gate.width,
           [&](int64_t row) { row_swiglu_backward<T>(dgate[row], dup[row], dy[row], gate[row], up[row], gate.width); });
}

}  // namespace

void swiglu(Stream& stream, const Swiglu& op) {
  with_element_type<double, float, bf16>(op.gate.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void swiglu_backward(Stream& stream, const SwigluBackward& op) {
  with_element_type<double, float, bf16>(op.gate.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
