// Elementwise, so the matrices are walked as one long row.
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
  T *dgate = op.dgate.elements<T>(), *dup = op.dup.elements<T>();
  const T *dy = op.dy.elements<T>(), *gate = op.gate.elements<T>(), *up = op.up.elements<T>();
  for_elements(threads, op.gate.count(), [&](int64_t begin, int64_t end) {
    row_swiglu_backward<T>(dgate + begin, dup + begin, dy + begin, gate + begin, up + begin, end - begin);
  });
}

}  // namespace

void swiglu(Stream& stream, const Swiglu& op) {
  with_element_type<double, float, bf16>(op.gate.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void swiglu_backward(Stream& stream, const SwigluBackward& op) {
  with_element_type<double, float, bf16>(op.gate.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
