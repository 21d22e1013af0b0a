// dlogits[t, e] += 2 scale log_sum_exp[t] p[t, e].
#include "ops/router_z_loss.h"

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void run(Threads& threads, const RouterZLoss& op) {
  const Rows<T> dlogits = rows_of<T>(op.dlogits), probabilities = rows_of<T>(op.probabilities);
  const T* log_sum_exp = op.log_sum_exp.elements<T>();
  double* loss = op.loss.elements<double>();
  for (int64_t row = 0; row < dlogits.count; ++row)
    *loss += op.scale * (double(log_sum_exp[row]) * double(log_sum_exp[row]));
  for_rows(threads, dlogits.count, dlogits.width, [&](int64_t row) {
    row_add_scaled<T>(dlogits[row], probabilities[row], T(2 * op.scale * double(log_sum_exp[row])), dlogits.width);
  });
}

}  // namespace

void router_z_loss(Stream& stream, const RouterZLoss& op) {
  with_element_type<double, float>(op.probabilities.dtype, [&]<class T>() { run<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
