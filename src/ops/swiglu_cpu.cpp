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
  for_elements(threads, op.gate.count(), [&](int64_t begin, int64_t end) {
    for_pieces<T>(begin, end, [&](int64_t at, int64_t n) {
      const Widened<T> g(gate + at, n), u(up + at, n);
      row_swiglu<Wide<T>>(Rounded<T>(y + at, n), g, u, n);
    });
  });
}

template <class T>
void backward(Threads& threads, const SwigluBackward& op) {
  T *dgate = op.dgate.elements<T>(), *dup = op.dup.elements<T>();
  const T *dy = op.dy.elements<T>(), *gate = op.gate.elements<T>(), *up = op.up.elements<T>();
  for_elements(threads, op.gate.count(), [&](int64_t begin, int64_t end) {
    for_pieces<T>(begin, end, [&](int64_t at, int64_t n) {
      const Widened<T> d(dy + at, n), g(gate + at, n), u(up + at, n);
      row_swiglu_backward<Wide<T>>(Rounded<T>(dgate + at, n), Rounded<T>(dup + at, n), d, g, u, n);
    });
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
