// y = w0 * x0, then + w1 * x1 and so on, each product rounded first; backward is one scaled row and one dot per choice.
#include "ops/combine_experts.h"

#include <utility>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const CombineExperts& op) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x);
  const Rows<W> weights = rows_of<W>(op.weights);
  const Rows<int32_t> place = rows_of<int32_t>(op.place);
  for_rows(threads, y.count, y.width * place.width, [&](int64_t row) {
    for_pieces<T>(0, y.width, [&](int64_t at, int64_t n) {
      Rounded<T> sum(y[row] + at, n);
      bool first = true;
      for (int64_t slot = 0; slot < place.width; ++slot) {
        if (place[row][slot] < 0) continue;
        const auto store = std::exchange(first, false) ? row_scale<W> : row_add_scaled<W>;
        store(sum, Widened<T>(x[place[row][slot]] + at, n), weights[row][slot], n);
      }
      if (first) std::fill_n(static_cast<W*>(sum), n, W(0));
    });
  });
}

template <class T>
void backward(Threads& threads, const CombineExpertsBackward& op) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(op.dx), dy = rows_of<T>(op.dy), x = rows_of<T>(op.x);
  const Rows<W> dweights = rows_of<W>(op.dweights), weights = rows_of<W>(op.weights);
  const Rows<int32_t> place = rows_of<int32_t>(op.place);
  for_rows(threads, dy.count, dy.width * place.width, [&](int64_t row) {
    for (int64_t slot = 0; slot < place.width; ++slot) {
      const int64_t from = place[row][slot];
      dweights[row][slot] = 0;
      if (from < 0) continue;
      W dot = 0;
      for_pieces<T>(0, dy.width, [&](int64_t at, int64_t n) {
        const Widened<T> flow(dy[row] + at, n);
        row_scale<W>(Rounded<T>(dx[from] + at, n), flow, weights[row][slot], n);
        dot += row_dot<W>(flow, Widened<T>(x[from] + at, n), n);
      });
      dweights[row][slot] = dot;
    }
  });
}

void expect_places(const Tensor& place, int64_t choices) {
  const Rows<int32_t> rows = rows_of<int32_t>(place);
  expect(rows.width > 0, "a row has at least one choice");
  for (int64_t row = 0; row < rows.count; ++row)
    expect_indices(rows[row], rows.width, choices, "every choice has its place among the sorted rows, or -1", -1);
}

}  // namespace

void combine_experts(Stream& stream, const CombineExperts& op) {
  expect_places(op.place, op.x.dim(0));
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void combine_experts_backward(Stream& stream, const CombineExpertsBackward& op) {
  expect_places(op.place, op.x.dim(0));
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
