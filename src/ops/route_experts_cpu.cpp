// The choice reads logits, not probabilities, so that rounding makes no ties; NaN counts as -infinity there, so that
// every row names k different experts. Weights: exp(logit - greatest chosen logit), divided by their sum.
#include "ops/route_experts.h"

#include <cmath>
#include <limits>

#include "ops/cpu/logarithm.h"
#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

bool holds(const int32_t* ids, int64_t count, int32_t id) { return std::find(ids, ids + count, id) != ids + count; }

template <class T>
void choose(int32_t* chosen, int64_t k, const T* logits, int64_t experts) {
  for (int64_t slot = 0; slot < k; ++slot) {
    int32_t best = -1;
    T greatest = -std::numeric_limits<T>::infinity();
    for (int32_t e = 0; e < experts; ++e) {
      if (best >= 0 && !(logits[e] > greatest)) continue;
      if (holds(chosen, slot, e)) continue;
      best = e;
      if (!std::isnan(logits[e])) greatest = logits[e];
    }
    chosen[slot] = best;
  }
}

// Returns the sum that the exponentials were divided by.
template <class T>
T softmax(T* y, const T* x, T greatest, int64_t n) {
  const T sum = row_exp_sum<T>(y, x, greatest, n);
  for (int64_t i = 0; i < n; ++i) y[i] /= sum;
  return sum;
}

// What training keeps of a row: -sum of p log p is log sum - sum of p (logit - greatest).
template <class T>
void judge_all(const RouteExperts& op, int64_t row, const T* logits, T* p, int64_t experts) {
  const T greatest = row_max<T>(logits, experts);
  const double log_sum = fixed_log(double(softmax<T>(p, logits, greatest, experts)));
  double below = 0;
  for (int64_t e = 0; e < experts; ++e) below += double(p[e]) * (double(greatest) - double(logits[e]));
  op.log_sum_exp.elements<T>()[row] = T(double(greatest) + log_sum);
  op.entropy.elements<T>()[row] = T(log_sum + below);
}

template <class T>
void forward(Threads& threads, const RouteExperts& op) {
  const Rows<T> logits = rows_of<T>(op.logits), weights = rows_of<T>(op.weights);
  const Rows<int32_t> ids = rows_of<int32_t>(op.expert_ids);
  const Rows<T> probabilities = op.probabilities ? rows_of<T>(op.probabilities) : Rows<T>{};
  const int64_t k = ids.width, experts = logits.width;
  for_rows(threads, logits.count, experts * (k + 1), [&](int64_t row) {
    choose<T>(ids[row], k, logits[row], experts);
    for (int64_t slot = 0; slot < k; ++slot) weights[row][slot] = logits[row][ids[row][slot]];
    if (k > 0) softmax<T>(weights[row], weights[row], weights[row][0], k);
    if (probabilities.data) judge_all<T>(op, row, logits[row], probabilities[row], experts);
  });
}

template <class T>
void backward(Threads& threads, const RouteExpertsBackward& op) {
  const Rows<T> dlogits = rows_of<T>(op.dlogits), dweights = rows_of<T>(op.dweights), weights = rows_of<T>(op.weights);
  const Rows<int32_t> ids = rows_of<int32_t>(op.expert_ids);
  const int64_t k = ids.width;
  for (int64_t row = 0; row < ids.count; ++row)
    expect_indices(ids[row], k, dlogits.width, "every choice is one of the experts");
  for_rows(threads, dlogits.count, dlogits.width, [&](int64_t row) {
    std::fill_n(dlogits[row], dlogits.width, T(0));
    T mean = 0;  // of dweights under the weights: a shift of all logits changes nothing
    for (int64_t slot = 0; slot < k; ++slot) mean += weights[row][slot] * dweights[row][slot];
    for (int64_t slot = 0; slot < k; ++slot)
      dlogits[row][ids[row][slot]] = weights[row][slot] * (dweights[row][slot] - mean);
  });
}

}  // namespace

void route_experts(Stream& stream, const RouteExperts& op) {
  with_element_type<double, float>(op.logits.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void route_experts_backward(Stream& stream, const RouteExpertsBackward& op) {
  with_element_type<double, float>(op.weights.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
