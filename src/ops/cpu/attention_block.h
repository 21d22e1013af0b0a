// What the attention operators' CPU twins share: an item's scratch, powers of the decay, a logarithm of our own.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "base/grid.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/simd.h"

namespace fulgur::cpu {

// The uninitialised scratch of one work item: one allocation, handed out in order.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t elements)
      : memory_(static_cast<T*>(::operator new(size_t(elements) * sizeof(T), kAlignment))), left_(elements) {}
  T* take(int64_t elements) {
    expect(elements <= left_, "scratch holds what was asked for");
    left_ -= elements;
    return memory_.get() + left_;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Release {
    void operator()(T* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<T, Release> memory_;
  int64_t left_;
};

// lambda_n = exp(-(slope * n)) for n = 0 ... 64; one exponential each, never a product of powers.
template <class T>
class Decay {
 public:
  explicit Decay(T slope) {
    T exponents[kGrid + 1];
    for (int64_t n = 0; n <= kGrid; ++n) exponents[n] = -(slope * T(n));
    row_exp(powers_, exponents, kGrid + 1);
    for (int64_t j = 0; j < kGrid; ++j) reversed_[j] = powers_[kGrid - 1 - j];
  }
  T operator()(int64_t n) const { return powers_[n]; }

  // Row i of the products of a block's rows: column j times lambda_(i-j) up to the diagonal, zero above it.
  void apply(T* row, int64_t i, int64_t columns) const {
    row_mul(row, row, reversed_ + (kGrid - 1 - i), i + 1);
    std::fill(row + i + 1, row + columns, T(0));
  }

 private:
  T powers_[kGrid + 1], reversed_[kGrid];
};

template <class T>
T* row_of(const Matrix<T>& matrix, int64_t i) {
  return matrix.data + i * matrix.row_stride;
}

template <class T>
Matrix<const T> read(const Matrix<T>& matrix) {
  return {matrix.data, matrix.row_stride, matrix.column_stride};
}

// S = lambda_64 S + sum over a full block's j of (lambda_(63-j) k_j)^T v_j. An S not `known` is zero and starts from
// +0, which is the same bits. `aged`: scratch of the block's size.
template <class T>
void close_block(const Decay<T>& decay, const Matrix<T>& state, bool known, const Matrix<T>& k, const Matrix<T>& v,
                 const Matrix<T>& aged, int64_t width) {
  for (int64_t j = 0; j < kGrid; ++j) row_scale(row_of(aged, j), row_of(k, j), decay(kGrid - 1 - j), width);
  for (int64_t d = 0; known && d < width; ++d) row_scale(row_of(state, d), row_of(state, d), decay(kGrid), width);
  gemm_serial<T>({.c = state,
                  .a = read(aged.transposed()),
                  .b = read(v),
                  .m = width,
                  .n = width,
                  .k = kGrid,
                  .store = known ? Store::add : Store::overwrite});
}

// Rows [row, row + rows) of the batch: one sequence's positions from `position` on, inside one block of the grid.
struct RowTile {
  int64_t sequence, row, rows, position;
  int64_t block() const { return position / kGrid; }
  // How many keys of a block the tile's row i sees.
  int64_t seen(int64_t key_block, int64_t i) const { return key_block < block() ? kGrid : position % kGrid + i + 1; }
};

inline std::vector<RowTile> tiles_of(const View<int32_t, 1>& row_begin, const View<int64_t, 1>& positions) {
  std::vector<RowTile> tiles;
  for (int64_t sequence = 0; sequence + 1 < row_begin.shape[0]; ++sequence) {
    const int64_t end = row_begin(sequence + 1);
    for (int64_t row = row_begin(sequence); row < end;) {
      const int64_t position = positions(row), rows = std::min(kGrid - position % kGrid, end - row);
      tiles.push_back({sequence, row, rows, position});
      row += rows;
    }
  }
  return tiles;
}

// y = x, with a zero's sign dropped: a product that runs on over columns of zeros may or may not have turned -0 into
// +0.
template <class T>
void row_copy_unsigned_zero(T* y, const T* x, int64_t n) {
  std::fill_n(y, n, T(0));
  row_add(y, x, n);
}

// Natural logarithm of a positive finite number, the same bits with any compiler and library; error below 2e-16 of its
// size plus 2e-16.
inline double natural_logarithm(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654752) m *= 2, --exponent;
  const double z = (m - 1) / (m + 1), z2 = z * z;  // log m = 2 artanh z, |z| < 0.172
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
  return double(exponent) * 0.69314718055994531 + 2 * z * sum;
}

}  // namespace fulgur::cpu
