// With g = clip * gradient: m = b1 m + (1 - b1) g, v = b2 v + ((1 - b2) g) g, and
// w -= rate * ((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay * w), elementwise in one fixed order.
#include "ops/adamw.h"

#include <cmath>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// base^n by squaring: products only, so its bits are the same everywhere, which std::pow does not promise.
double power(double base, int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2 == 1) result *= base;
  return result;
}

// The step's constants, worked out in f64 and rounded once.
template <class T>
struct Constants {
  T clip, keep1, take1, keep2, take2, unbias1, unbias2, rate, eps, decay;
};

template <class T>
Constants<T> constants_of(const AdamW& op) {
  const double norm = *op.gradient_norm.elements<double>();
  return {.clip = T(op.max_norm > 0 && norm > op.max_norm ? op.max_norm / norm : 1),
          .keep1 = T(op.beta1),
          .take1 = T(1 - op.beta1),
          .keep2 = T(op.beta2),
          .take2 = T(1 - op.beta2),
          .unbias1 = T(1 / (1 - power(op.beta1, op.step))),
          .unbias2 = T(1 / (1 - power(op.beta2, op.step))),
          .rate = T(op.learning_rate),
          .eps = T(op.eps),
          .decay = T(op.weight_decay)};
}

template <class T>
struct Range {
  T* __restrict master, * __restrict first, * __restrict second;
  const T* __restrict gradient;
};

template <class T>
void update(const Range<T>& at, int64_t begin, int64_t end, const Constants<T>& c, T decay) {
  T* __restrict w = at.master, * __restrict m = at.first, * __restrict v = at.second;
  const T* __restrict gradient = at.gradient;
  for (int64_t i = begin; i < end; ++i) {
    const T g = c.clip * gradient[i];
    m[i] = c.keep1 * m[i] + c.take1 * g;
    v[i] = c.keep2 * v[i] + (c.take2 * g) * g;
    const T direction = (m[i] * c.unbias1) / (std::sqrt(v[i] * c.unbias2) + c.eps);
    w[i] = w[i] - c.rate * (direction + decay * w[i]);
  }
}

struct Span {
  int64_t begin, end;
};

void expect_ascending(const Span* spans, int64_t count, int64_t elements) {
  int64_t last = 0;
  bool holds = true;
  for (int64_t i = 0; i < count; ++i) {
    holds &= spans[i].begin >= last && spans[i].end >= spans[i].begin;
    last = spans[i].end;
  }
  expect(holds && last <= elements, "the ranges without decay ascend and lie inside the parameters");
}

// Cuts [begin, end) where decay begins and ends.
template <class T>
void update_piece(const Range<T>& at, Span piece, const Constants<T>& c, const Span* bare, const Span* bare_end) {
  bare = std::upper_bound(bare, bare_end, piece.begin, [](int64_t i, const Span& span) { return i < span.end; });
  for (int64_t i = piece.begin; i < piece.end;) {
    const bool inside = bare != bare_end && bare->begin <= i;
    int64_t end = piece.end;
    if (bare != bare_end) end = std::min(end, inside ? bare->end : bare->begin);
    update<T>(at, i, end, c, inside ? T(0) : c.decay);
    if (inside && end == bare->end) ++bare;
    i = end;
  }
}

template <class T>
void run(Threads& threads, const AdamW& op) {
  const Range<T> at{op.master.elements<T>(), op.first.elements<T>(), op.second.elements<T>(),
                    op.gradient.elements<T>()};
  const int64_t* ranges = op.not_decayed.elements<int64_t>();
  std::vector<Span> bare(size_t(op.not_decayed.dim(0)));
  for (size_t i = 0; i < bare.size(); ++i) bare[i] = {ranges[2 * i], ranges[2 * i + 1]};
  expect_ascending(bare.data(), int64_t(bare.size()), op.master.dim(0));
  const Constants<T> c = constants_of<T>(op);
  for_elements(threads, op.master.dim(0), [&](int64_t begin, int64_t end) {
    update_piece<T>(at, {begin, end}, c, bare.data(), bare.data() + bare.size());
  });
}

// What forward reads: the master, rounded.
template <class T>
void round_weights(Threads& threads, const AdamW& op) {
  const T* master = op.master.elements<T>();
  with_element_type<double, float, bf16>(op.weights.dtype, [&]<class Stored>() {
    Stored* weights = op.weights.elements<Stored>();
    for_elements(threads, op.weights.dim(0), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) weights[i] = Stored(Wide<Stored>(master[i]));
    });
  });
}

}  // namespace

void adamw(Stream& stream, const AdamW& op) {
  with_element_type<double, float>(op.master.dtype, [&]<class T>() {
    run<T>(stream.threads(), op);
    if (op.weights) round_weights<T>(stream.threads(), op);
  });
}

}  // namespace fulgur::cpu
