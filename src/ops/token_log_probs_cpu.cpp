// A row's greatest logit is taken off first: log p = (logit - greatest) - log(sum of exp(logit - greatest)), in f64.
#include "ops/token_log_probs.h"

#include <vector>

#include "ops/cpu/logarithm.h"
#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void run(Threads& threads, const TokenLogProbs& op) {
  const Rows<T> logits = rows_of<T>(op.logits);
  const int32_t* tokens = op.tokens.elements<int32_t>();
  T* log_probs = op.log_probs.elements<T>();
  for (int64_t row = 0; row < logits.count; ++row)
    expect(tokens[row] >= 0 && tokens[row] < logits.width, "every token is in the vocabulary");
  threads.for_ranges(logits.count, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> powers(static_cast<size_t>(logits.width));
    for (int64_t row = begin; row < end; ++row) {
      const T* from = logits[row];
      const T greatest = row_max<T>(from, logits.width);
      const double sum = double(row_exp_sum<T>(powers.data(), from, greatest, logits.width));
      log_probs[row] = T(double(from[tokens[row]]) - double(greatest) - fixed_log(sum));
    }
  });
}

}  // namespace

void token_log_probs(Stream& stream, const TokenLogProbs& op) {
  with_element_type<double, float>(op.logits.dtype, [&]<class T>() { run<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
