// What the row-wise CPU twins share: the rows of a tensor, and how threads divide rows, columns and elements. A piece
// never decides a bit: sums along rows stay inside one piece of rows, sums over rows inside one piece of columns.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/tensor.h"
#include "base/threads.h"
#include "ops/cpu/simd.h"

namespace fulgur::cpu {

template <class T>
struct Rows {
  T* data;
  int64_t count, width, stride;
  T* operator[](int64_t row) const { return data + row * stride; }
};

template <class T>
Rows<T> rows_of(const Tensor& t) {
  const View<T, 2> view = t.view<T, 2>();
  expect(view.stride[1] == 1 || view.shape[1] <= 1, "the columns of a row lie end to end");
  return {view.data, view.shape[0], view.shape[1], view.stride[0]};
}

inline constexpr int64_t kPieceElements = 4096;  // work that outweighs handing it to a thread
inline constexpr int64_t kPieceColumns = 256;    // columns whose sums over rows stay near

// body(row)
template <class Body>
void for_rows(Threads& threads, int64_t rows, int64_t width, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, width));
  threads.for_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

// body(begin, end) over columns, at most kPieceColumns at a time.
template <class Body>
void for_columns(Threads& threads, int64_t width, const Body& body) {
  const int64_t share = (width + threads.count() - 1) / threads.count();
  threads.for_ranges(width, std::clamp<int64_t>((share + 15) / 16 * 16, 16, kPieceColumns), body);
}

// body(begin, end) over the elements of dense tensors.
template <class Body>
void for_elements(Threads& threads, int64_t count, const Body& body) {
  threads.for_ranges(count, kPieceElements, body);
}

// least: -1 where an index may say "none".
inline void expect_indices(const int32_t* indices, int64_t count, int64_t limit, const char* promise,
                           int32_t least = 0) {
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= indices[i] >= least && indices[i] < limit;
  expect(inside, promise);
}

// Places of rows' choices among `choices` sorted rows (ops/residual_norm.h).
inline void expect_places(const Tensor& place, int64_t choices) {
  const Rows<int32_t> rows = rows_of<int32_t>(place);
  expect(rows.width > 0, "a row has at least one choice");
  for (int64_t row = 0; row < rows.count; ++row)
    expect_indices(rows[row], rows.width, choices, "every choice has its place among the sorted rows, or -1", -1);
}

}  // namespace fulgur::cpu
