// A row at a time: the combined choices, the sum and the norm pass through y where nobody keeps them.
#include "ops/residual_norm.h"

#include <cmath>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const ResidualNorm& op) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(op.y), sums = op.sum ? rows_of<T>(op.sum) : y;
  const Rows<T> carried = rows_of<T>(op.carried), branch = rows_of<T>(op.branch);
  const Rows<W> weights = op.place ? rows_of<W>(op.expert_weights) : Rows<W>{};
  const Rows<int32_t> place = op.place ? rows_of<int32_t>(op.place) : Rows<int32_t>{};
  const T* weight = op.weight.elements<T>();
  W* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<W>() : nullptr;
  const int64_t width = y.width;
  for_rows(threads, y.count, width * (1 + place.width), [&](int64_t row) {
    if (op.place) row_combine<T>(y[row], branch.data, branch.stride, place[row], weights[row], place.width, width);
    T* const sum = sums[row];
    row_blend<T>(sum, carried[row], W(op.alpha), op.place ? y[row] : branch[row], W(op.beta), width);
    const W inverse = 1 / std::sqrt(row_dot<T>(sum, sum, width) / W(width) + W(op.eps));
    if (inverse_rms) inverse_rms[row] = inverse;
    row_scale_mul<T>(y[row], sum, inverse, weight, width);
  });
}

}  // namespace

void residual_norm(Stream& stream, const ResidualNorm& op) {
  if (op.place) expect_places(op.place, op.branch.dim(0));
  with_element_type<double, float, bf16>(op.y.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
