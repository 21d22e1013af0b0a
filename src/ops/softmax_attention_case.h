// What softmax attention's cases share: calls on one tensor of all heads, and the plain softmax.
#pragma once
#include "ops/attention_case.h"
#include "ops/softmax_attention.h"

namespace fulgur::cases {

struct Heads {
  int64_t q, kv, width;
  int64_t all() const { return q + 2 * kv; }
};

// One tensor of rows, heads of q, then k, then v.
struct Parts {
  Tensor q, k, v;
};

inline Parts parts_of(const Tensor& qkv, const Heads& heads) {
  return {qkv.slice(1, 0, heads.q), qkv.slice(1, heads.q, heads.q + heads.kv),
          qkv.slice(1, heads.q + heads.kv, heads.all())};
}

struct Attended {
  Tensor o, log_sum_exp;
};

inline Attended attend(Bench& bench, const Tensor& qkv, const Heads& heads, const Layout& layout, int threads = 2) {
  const Parts parts = parts_of(qkv, heads);
  const Attended result{bench.empty(qkv.dtype, {layout.rows, heads.q, heads.width}),
                        bench.empty(wide(qkv.dtype), {heads.q, layout.rows})};
  CaseStream stream({}, threads);
  softmax_attention(stream, {.o = result.o,
                             .q = parts.q,
                             .k = parts.k,
                             .v = parts.v,
                             .row_begin = layout.row_begin,
                             .positions = layout.positions,
                             .longest = layout.longest,
                             .log_sum_exp = result.log_sum_exp});
  return result;
}

// Softmax over all scores of a row of one sequence at once, without blocks or running statistics.
inline Attended plain(Bench& bench, const Tensor& qkv, const Heads& heads) {
  const int64_t rows = qkv.dim(0);
  const Tensor wide = bench.converted(qkv, DType::f64);
  const Parts parts = parts_of(wide, heads);
  const auto q = parts.q.view<double, 3>(), k = parts.k.view<double, 3>(), v = parts.v.view<double, 3>();
  const Attended result{bench.zeros(DType::f64, {rows, heads.q, heads.width}),
                        bench.zeros(DType::f64, {heads.q, rows})};
  const auto o = result.o.view<double, 3>();
  for (int64_t h = 0; h < heads.q; ++h) {
    const int64_t g = h / (heads.q / heads.kv);
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<double> scores(size_t(i + 1), 0.0);
      for (int64_t j = 0; j <= i; ++j) {
        for (int64_t d = 0; d < heads.width; ++d) scores[size_t(j)] += q(i, h, d) * k(j, g, d);
        scores[size_t(j)] /= std::sqrt(double(heads.width));
      }
      const double highest = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& s : scores) total += s = std::exp(s - highest);
      for (int64_t j = 0; j <= i; ++j)
        for (int64_t d = 0; d < heads.width; ++d) o(i, h, d) += scores[size_t(j)] / total * v(j, g, d);
      set(result.log_sum_exp, h * rows + i, highest + std::log(total));
    }
  }
  return result;
}

}  // namespace fulgur::cases
