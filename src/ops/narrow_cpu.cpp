// Each element is rounded by itself.
#include "ops/narrow.h"

#include "ops/cpu/rows.h"

namespace fulgur::cpu {

void narrow(Stream& stream, const Narrow& op) {
  bf16* y = op.y.elements<bf16>();
  const float* x = op.x.elements<float>();
  for_elements(stream.threads(), op.x.count(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = bf16(x[i]);
  });
}

}  // namespace fulgur::cpu
