// What the attention operators' CPU twins share: an item's scratch, products, and rows on their way between the run
// type T and the wide type of sums.
//
// What enters a product is T; products add up in wide. So bf16 runs round each operand once, where it is made, and in
// f32 and f64 runs, whose T is wide, none of this moves a byte.
#pragma once
#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>

#include "base/grid.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/rows.h"

namespace fulgur::cpu {

// The uninitialised scratch of one work item: one allocation, handed out in order.
template <class T>
class Scratch {
 public:
  Scratch(int64_t wides, int64_t elements)
      : memory_(static_cast<std::byte*>(
            ::operator new(size_t(wides) * sizeof(Wide<T>) + size_t(elements) * sizeof(T), kAlignment))),
        first_(reinterpret_cast<T*>(memory_.get() + size_t(wides) * sizeof(Wide<T>))),
        wides_(wides),
        elements_(elements) {}

  Wide<T>* take_wide(int64_t count) { return reinterpret_cast<Wide<T>*>(memory_.get()) + claim(wides_, count); }
  Matrix<Wide<T>> take_wide(int64_t rows, int64_t width) { return {take_wide(rows * width), width, 1}; }
  Matrix<T> take(int64_t rows, int64_t width) { return {first_ + claim(elements_, rows * width), width, 1}; }

 private:
  static int64_t claim(int64_t& left, int64_t count) {
    expect(count <= left, "scratch holds what was asked for");
    return left -= count;
  }

  static constexpr std::align_val_t kAlignment{64};
  struct Release {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<std::byte, Release> memory_;
  T* first_;
  int64_t wides_, elements_;
};

template <class T>
T* row_of(const Matrix<T>& matrix, int64_t i) {
  return matrix.data + i * matrix.row_stride;
}

// c = a * b, or added to c, on the calling thread. A: T or const T; B too, or wide in a bf16 run, then rounded on the
// way in.
template <class A, class B>
void multiply(const Matrix<Wide<std::remove_const_t<A>>>& c, const Matrix<A>& a, const Matrix<B>& b, int64_t m,
              int64_t n, int64_t k, Store store) {
  using T = std::remove_const_t<A>;
  if constexpr (std::is_same_v<T, bf16>) {
    gemm_serial(Bf16Product{.c = {c.data, DType::f32, c.row_stride},
                            .a = {a.data, DType::bf16, a.row_stride, a.column_stride},
                            .b = {b.data, dtype_of<std::remove_const_t<B>>, b.row_stride, b.column_stride},
                            .m = m,
                            .n = n,
                            .k = k,
                            .store = store});
  } else {
    gemm_serial<T>({.c = c,
                    .a = {a.data, a.row_stride, a.column_stride},
                    .b = {b.data, b.row_stride, b.column_stride},
                    .m = m,
                    .n = n,
                    .k = k,
                    .store = store});
  }
}

// Rows of sums as they enter a product: themselves, or in bf16 runs rounded into `space`.
template <class T>
Matrix<T> entering(const Matrix<T>& x, const Matrix<T>&, int64_t, int64_t) {
  return x;
}
inline Matrix<bf16> entering(const Matrix<float>& x, const Matrix<bf16>& space, int64_t rows, int64_t width) {
  rows_store(space.data, space.row_stride, x.data, x.row_stride, rows, width);
  return space;
}

// c = a * x for a wide x that enters the product as T.
template <class T>
void multiply_entering(const Matrix<Wide<T>>& c, const Matrix<T>& a, const Matrix<Wide<T>>& x, const Matrix<T>& space,
                       int64_t m, int64_t n, int64_t k) {
  if (packs_f32()) multiply(c, a, x, m, n, k, Store::overwrite);
  else multiply(c, a, entering(x, space, k, n), m, n, k, Store::overwrite);
}

// Sums to where they are stored.
template <class T>
void store_row(T* y, const T* x, int64_t n) {
  std::copy_n(x, n, y);
}
inline void store_row(bf16* y, const float* x, int64_t n) { row_narrow(y, x, n); }

}  // namespace fulgur::cpu
