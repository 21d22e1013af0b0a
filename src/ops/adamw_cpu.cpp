// With g = clip * gradient: m = b1 m + (1 - b1) g, v = b2 v + ((1 - b2) g) g, and
// w -= rate * ((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay * w), elementwise in one fixed order.
#include "ops/adamw.h"

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
AdamWStep<T> constants_of(const AdamW& op) {
  const double norm = *op.gradient_norm.elements<double>();
  return {.clip = T(op.max_norm > 0 && norm > op.max_norm ? op.max_norm / norm : 1),
          .keep1 = T(op.beta1),
          .take1 = T(1 - op.beta1),
          .keep2 = T(op.beta2),
          .take2 = T(1 - op.beta2),
          .unbias1 = T(1 / (1 - power(op.beta1, op.step))),
          .unbias2 = T(1 / (1 - power(op.beta2, op.step))),
          .rate = T(op.learning_rate),
          .eps = T(op.eps)};
}

template <class T>
struct Buffers {
  T* weights;  // null where the master itself is read
  Wide<T>*master, *first, *second;
  const Wide<T>* gradient;
};

void store(bf16* weights, const float* master, int64_t n) { row_narrow(weights, master, n); }
template <class T>
void store(T* weights, const T* master, int64_t n) {
  std::copy_n(master, n, weights);
}

// A piece's master is still in the cache when its weights are written.
template <class T>
void update(const Buffers<T>& b, int64_t begin, int64_t end, const AdamWStep<Wide<T>>& step, Wide<T> decay) {
  constexpr int64_t kPiece = 1024;
  for (int64_t i = begin; i < end; i += kPiece) {
    const int64_t n = std::min(kPiece, end - i);
    row_adamw<Wide<T>>(b.master + i, b.first + i, b.second + i, b.gradient + i, step, decay, n);
    if (b.weights) store(b.weights + i, b.master + i, n);
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
void update_piece(const Buffers<T>& buffers, Span piece, const AdamWStep<Wide<T>>& step, Wide<T> decay,
                  const Span* bare, const Span* bare_end) {
  bare = std::upper_bound(bare, bare_end, piece.begin, [](int64_t i, const Span& span) { return i < span.end; });
  for (int64_t i = piece.begin; i < piece.end;) {
    const bool inside = bare != bare_end && bare->begin <= i;
    int64_t end = piece.end;
    if (bare != bare_end) end = std::min(end, inside ? bare->end : bare->begin);
    update<T>(buffers, i, end, step, inside ? Wide<T>(0) : decay);
    if (inside && end == bare->end) ++bare;
    i = end;
  }
}

template <class T>
void run(Threads& threads, const AdamW& op) {
  using W = Wide<T>;
  const Buffers<T> buffers{op.weights ? op.weights.elements<T>() : nullptr, op.master.elements<W>(),
                           op.first.elements<W>(), op.second.elements<W>(), op.gradient.elements<W>()};
  const int64_t* ranges = op.not_decayed.elements<int64_t>();
  std::vector<Span> bare(size_t(op.not_decayed.dim(0)));
  for (size_t i = 0; i < bare.size(); ++i) bare[i] = {ranges[2 * i], ranges[2 * i + 1]};
  expect_ascending(bare.data(), int64_t(bare.size()), op.master.dim(0));
  const AdamWStep<W> step = constants_of<W>(op);
  const W decay = W(op.weight_decay);
  for_elements(threads, op.master.dim(0), [&](int64_t begin, int64_t end) {
    update_piece<T>(buffers, {begin, end}, step, decay, bare.data(), bare.data() + bare.size());
  });
}

}  // namespace

void adamw(Stream& stream, const AdamW& op) {
  const DType stored = op.weights ? op.weights.dtype : op.master.dtype;
  with_element_type<double, float, bf16>(stored, [&]<class T>() { run<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
