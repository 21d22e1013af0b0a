// Rows are finished in any order, their losses added in ascending order: log(sum of exp(logit - max)) + max - logit.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/cpu/logarithm.h"
#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// Turns a row of logits into its gradient; returns the row's loss.
template <class T>
double finish(T* row, int64_t vocab, int32_t target, double scale) {
  const T greatest = row_max<T>(row, vocab), own = row[target];
  const double sum = double(row_exp_sum<T>(row, row, greatest, vocab));
  const double probability = double(row[target]) / sum;
  row_scale<T>(row, row, T(scale / sum), vocab);
  row[target] = T((probability - 1) * scale);
  return fixed_log(sum) + (double(greatest) - double(own));
}

// G: of the gradient beside the logits.
template <class T, class G>
void run(Threads& threads, const CrossEntropy& op) {
  const Rows<T> logits = rows_of<T>(op.logits);
  const Rows<G> gradient = op.gradient ? rows_of<G>(op.gradient) : Rows<G>{};
  const int32_t* targets = op.targets.elements<int32_t>();
  bool inside = true;
  for (int64_t row = 0; row < logits.count; ++row) inside &= targets[row] >= -1 && targets[row] < logits.width;
  expect(inside, "every target is in the vocabulary, or -1");
  const double scale = *op.scale.elements<double>();
  std::vector<double> losses(size_t(logits.count), 0.0);
  for_rows(threads, logits.count, logits.width, [&](int64_t row) {
    if (targets[row] < 0) std::fill_n(logits[row], logits.width, T(0));
    else losses[size_t(row)] = finish<T>(logits[row], logits.width, targets[row], scale);
    if constexpr (std::is_same_v<G, bf16>) row_narrow(gradient[row], logits[row], logits.width);
    else if (op.gradient) std::copy_n(logits[row], logits.width, gradient[row]);
  });
  double* loss = op.loss.elements<double>();
  for (const double one : losses) *loss += scale * one;
}

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& op) {
  with_element_type<double, float, bf16>(op.gradient ? op.gradient.dtype : op.logits.dtype,
                                         [&]<class G>() { run<Wide<G>, G>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
