// What the attention operators' cases share: the layout of a call's rows, and copies of tensors' elements.
#pragma once
#include "base/grid.h"
#include "ops/case.h"

namespace fulgur::cases {

// Sequences of a call, laid end to end: sequence s takes counts[s] rows from position starts[s] on.
struct Layout {
  Tensor row_begin, positions;
  int64_t rows = 0, longest = 0;
};

inline Layout lay_out(Bench& bench, const std::vector<int64_t>& counts, std::vector<int64_t> starts = {}) {
  starts.resize(counts.size(), 0);
  std::vector<int64_t> begin{0}, positions;
  Layout layout;
  for (size_t s = 0; s < counts.size(); ++s) {
    for (int64_t i = 0; i < counts[s]; ++i) positions.push_back(starts[s] + i);
    begin.push_back(layout.rows += counts[s]);
    layout.longest = std::max(layout.longest, counts[s]);
  }
  layout.row_begin = bench.indices(DType::i32, begin), layout.positions = bench.indices(DType::i64, positions);
  return layout;
}

inline void copy_elements(const Tensor& to, const Tensor& from) {
  for (int64_t i = 0; i < to.count(); ++i) set(to, i, get(from, i));
}

// The decays that lightning attention's cases use.
inline Tensor decays(Bench& bench, DType type, int64_t heads) {
  return bench.random(wide(type), {heads}, 77, 0.3, 0.31);
}

// The same call in f64, for an oracle: numbers are copied, indices shared.
template <class Operands>
Operands in_f64(Bench& bench, const Operands& op) {
  return with_tensors(op, [&](Operand o) {
    const DType type = o.tensor->dtype;
    return type == DType::i32 || type == DType::i64 ? *o.tensor : bench.converted(*o.tensor, DType::f64);
  });
}

// How far a twin may be from the f64 oracle of the same inputs.
inline double bound_of(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 2e-6 : 5e-3; }

// Head widths to try: those of models in bf16, whose products take several columns and steps at once.
inline std::vector<int64_t> widths_of(DType type) {
  return type == DType::bf16 ? std::vector<int64_t>{16, 32, 64, 128} : std::vector<int64_t>{8, 32};
}

// The larger of two gaps; NaN stays.
inline double larger(double gap, double other) { return other <= gap || std::isnan(gap) ? gap : other; }

// Relative gaps of a tensor that is compared document by document.
class Gaps {
 public:
  void add(const Tensor& have, const Tensor& want) {
    const double gap = relative_gap(have, want), size = inner(want, want);
    worst_ = larger(worst_, gap);
    gap_ += size == 0 ? gap * gap : gap * gap * size, size_ += size;
  }
  // Of the worst document, and in bf16, whose bound is one of tensors, of all together: the few products of a single
  // row may all be rounded the same way.
  double of(DType type) const { return type != DType::bf16 ? worst_ : std::sqrt(size_ == 0 ? gap_ : gap_ / size_); }

 private:
  double worst_ = 0, gap_ = 0, size_ = 0;
};

// The run types, for tests of what no run may depend on.
inline auto run_types() { return testing::Values(DType::f32, DType::f64, DType::bf16); }
inline std::string name_of_type(const testing::TestParamInfo<DType>& type) { return name_of(type.param); }

}  // namespace fulgur::cases
