// What the row-wise CPU twins share: the rows of a tensor, and how threads divide rows, columns and elements. A piece
// never decides a bit: sums along rows stay inside one piece of rows, sums over rows inside one piece of columns.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

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
inline constexpr int64_t kPieceColumns = 256;    // what a scratch row on the stack may hold

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

// body(at, n) over pieces [at, at + n) of [begin, end): all of it, or for bf16 what Widened and Rounded hold.
template <class T, class Body>
void for_pieces(int64_t begin, int64_t end, const Body& body) {
  const int64_t most = std::is_same_v<T, bf16> ? kPieceColumns : end - begin;
  for (int64_t at = begin; at < end; at += most) body(at, std::min(most, end - at));
}

// A piece of a row in the type that it is computed in: the row itself, or for bf16 a copy on the stack.
template <class T>
class Widened {
 public:
  Widened(const T* row, int64_t) : row_(row) {}
  operator const T*() const { return row_; }

 private:
  const T* row_;
};
template <>
class Widened<bf16> {
 public:
  Widened(const bf16* row, int64_t n) { row_widen(copy_, row, n); }
  operator const float*() const { return copy_; }

 private:
  float copy_[kPieceColumns];
};

// A piece of a row that is written: in place, or for bf16 on the stack, to be rounded into the row at the end of scope.
template <class T>
class Rounded {
 public:
  Rounded(T* row, int64_t) : row_(row) {}
  operator T*() { return row_; }

 private:
  T* row_;
};
template <>
class Rounded<bf16> {
 public:
  Rounded(bf16* row, int64_t n) : row_(row), n_(n) {}
  Rounded(const Rounded&) = delete;
  Rounded& operator=(const Rounded&) = delete;
  ~Rounded() { row_narrow(row_, copy_, n_); }
  operator float*() { return copy_; }

 private:
  bf16* row_;
  int64_t n_;
  float copy_[kPieceColumns];
};

// The same for a piece that is read as well.
template <class T>
class Updated : public Rounded<T> {
 public:
  Updated(T* row, int64_t n) : Rounded<T>(row, n) {
    if constexpr (std::is_same_v<T, bf16>) row_widen(*this, row, n);
  }
};

// least: -1 where an index may say "none".
inline void expect_indices(const int32_t* indices, int64_t count, int64_t limit, const char* promise,
                           int32_t least = 0) {
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= indices[i] >= least && indices[i] < limit;
  expect(inside, promise);
}

}  // namespace fulgur::cpu
