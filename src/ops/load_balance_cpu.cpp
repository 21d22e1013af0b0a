// With p = probabilities and n = window: dlogits[t, e] += scale / (E n) * p[t, e] * (f[e] - sum over i of f[i] p[t,
// i]).
#include "ops/load_balance.h"

#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// Choices per row of every expert in the window that begins at `first`.
std::vector<double> shares(const Rows<int32_t>& ids, int64_t first, int64_t window, int64_t experts) {
  std::vector<double> share(size_t(experts), 0.0);
  for (int64_t row = first; row < first + window; ++row)
    for (int64_t slot = 0; slot < ids.width; ++slot) share[size_t(ids[row][slot])] += 1;
  for (double& f : share) f /= double(window);
  return share;
}

// sum over experts of f * m, the means taken rows ascending.
template <class T>
double balance(const std::vector<double>& share, const Rows<T>& probabilities, int64_t first, int64_t window) {
  std::vector<double> sums(share.size(), 0.0);
  for (int64_t row = first; row < first + window; ++row)
    for (size_t e = 0; e < sums.size(); ++e) sums[e] += double(probabilities[row][e]);
  double sum = 0;
  for (size_t e = 0; e < sums.size(); ++e) sum += share[e] * (sums[e] / double(window));
  return sum;
}

template <class T>
void run(Threads& threads, const LoadBalance& op) {
  const Rows<T> dlogits = rows_of<T>(op.dlogits), probabilities = rows_of<T>(op.probabilities);
  const Rows<int32_t> ids = rows_of<int32_t>(op.expert_ids);
  const int64_t experts = dlogits.width, window = op.window, windows = dlogits.count / window;
  for (int64_t row = 0; row < ids.count; ++row)
    expect_indices(ids[row], ids.width, experts, "every choice is one of the experts");
  std::vector<T> share(size_t(windows * experts));
  double* loss = op.loss.elements<double>();
  for (int64_t w = 0; w < windows; ++w) {
    const std::vector<double> f = shares(ids, w * window, window, experts);
    std::transform(f.begin(), f.end(), share.begin() + w * experts, [](double one) { return T(one); });
    *loss += op.scale / double(experts) * balance<T>(f, probabilities, w * window, window);
  }
  const T factor = T(op.scale / (double(experts) * double(window)));
  for_rows(threads, dlogits.count, experts, [&](int64_t row) {
    const T *p = probabilities[row], *f = share.data() + row / window * experts;
    const T mean = row_dot<T>(f, p, experts);
    for (int64_t e = 0; e < experts; ++e) dlogits[row][e] += factor * (p[e] * (f[e] - mean));
  });
}

}  // namespace

void load_balance(Stream& stream, const LoadBalance& op) {
  with_element_type<double, float>(op.probabilities.dtype, [&]<class T>() { run<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
