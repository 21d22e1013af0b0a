// With p = probabilities and n = rows of a window: dlogits[t, e] += scale / (E n) * p[t, e] * (f[e] - sum over i of
// f[i] p[t, i]).
#include "ops/load_balance.h"

#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// Choices per row of every expert in a window, over all the layers given.
std::vector<double> shares(const View<int32_t, 3>& choices, int64_t window, int64_t rows) {
  std::vector<double> share(static_cast<size_t>(choices.shape[2]));
  for (size_t e = 0; e < share.size(); ++e) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < choices.shape[0]; ++layer) count += choices(layer, window, e);
    share[e] = double(count) / double(rows * choices.shape[0]);
  }
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
  const View<int32_t, 3> choices = op.choices.view<int32_t, 3>();
  const int64_t experts = dlogits.width, windows = choices.shape[1], window = dlogits.count / windows;
  std::vector<T> share(size_t(windows * experts));
  double* loss = op.loss.elements<double>();
  for (int64_t w = 0; w < windows; ++w) {
    const std::vector<double> f = shares(choices, w, window);
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
