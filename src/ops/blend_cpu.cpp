// Both products are rounded before they are added, so the bits do not depend on how the elements are divided.
#include "ops/blend.h"

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {

void blend(Stream& stream, const Blend& op) {
  with_element_type<double, float, bf16>(op.a.dtype, [&]<class T>() {
    using W = Wide<T>;
    T* y = op.y.elements<T>();
    const T *a = op.a.elements<T>(), *b = op.b ? op.b.elements<T>() : nullptr;
    const W alpha = W(op.alpha), beta = W(op.beta);
    for_elements(stream.threads(), op.a.count(), [&](int64_t begin, int64_t end) {
      if (b) row_blend<T>(y + begin, a + begin, alpha, b + begin, beta, end - begin);
      else row_scale<T>(y + begin, a + begin, alpha, end - begin);
    });
  });
}

}  // namespace fulgur::cpu
