// y = w0 * x0, then + w1 * x1 and so on, each product rounded first; backward is one scaled row and one dot per choice.
#include "ops/combine_experts.h"

#include <utility>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

template <class T>
void forward(Threads& threads, const CombineExperts& op) {
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x), weights = rows_of<T>(op.weights);
  const Rows<int32_t> place = rows_of<int32_t>(op.place);
  for_rows(threads, y.count, y.width * place.width, [&](int64_t row) {
    bool first = true;
    for (int64_t slot = 0; slot < place.width; ++slot) {
      if (place[row][slot] < 0) continue;
      const auto store = std::exchange(first, false) ? row_scale<T> : row_add_scaled<T>;
      store(y[row], x[place[row][slot]], weights[row][slot], y.width);
    }
    if (first) std::fill_n(y[row], y.width, T(0));
  });
}

template <class T>
void backward(Threads& threads, const CombineExpertsBackward& op) {
  const Rows<T> dx = rows_of<T>(op.dx), dweights = rows_of<T>(op.dweights), dy = rows_of<T>(op.dy);
  const Rows<T> x = rows_of<T>(op.x), weights = rows_of<T>(op.weights);
  const Rows<int32_t> place = rows_of<int32_t>(op.place);
  for_rows(threads, dy.count, dy.width * place.width, [&](int64_t row) {
    for (int64_t slot = 0; slot < place.width; ++slot) {
      const int64_t at = place[row][slot];
      dweights[row][slot] = T(0);
      if (at < 0) continue;
      row_scale<T>(dx[at], dy[row], weights[row][slot], dy.width);
      dweights[row][slot] = row_dot<T>(dy[row], x[at], dy.width);
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
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void combine_experts_backward(Stream& stream, const CombineExpertsBackward& op) {
  expect_places(op.place, op.x.dim(0));
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
