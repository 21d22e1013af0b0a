// One after the other: edits are few.
#include "ops/edit_logits.h"

namespace fulgur::cpu {

void edit_logits(Stream&, const EditLogits& op) {
  const auto logits = op.logits.view<float, 2>();
  const auto places = op.places.view<int32_t, 2>();
  const auto divisors = op.divisors.view<float, 1>(), offsets = op.offsets.view<float, 1>();
  for (int64_t i = 0; i < places.shape[0]; ++i) {
    const int32_t row = places(i, 0), id = places(i, 1);
    expect(row >= 0 && row < logits.shape[0] && id >= 0 && id < logits.shape[1], "a place lies inside the logits");
    float& logit = logits(row, id);
    logit = (logit > 0 ? logit / divisors(i) : logit * divisors(i)) + offsets(i);
  }
}

}  // namespace fulgur::cpu
