// A block of 64 rows of lightning attention: powers of the decay, and how a full block enters the state.
#pragma once
#include "ops/cpu/attention_block.h"

namespace fulgur::cpu {

// lambda_n = exp(-(slope * n)) for n = 0 ... 64; one exponential each, never a product of powers. T: a wide type.
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

  const T* powers() const { return powers_; }

  // Products of a block's rows first, first + step, ...: row i's column j times lambda_(i-j) up to the diagonal, zero
  // above it, as they enter the next product.
  template <class Stored>
  void apply(const Matrix<Stored>& to, const Matrix<T>& products, int64_t first, int64_t step, int64_t rows,
             int64_t columns) const {
    rows_triangle(to.data, to.row_stride, products.data, products.row_stride, reversed_ + kGrid - 1, first, step, rows,
                  columns);
  }

 private:
  T powers_[kGrid + 1];
  T reversed_[kGrid + 16] = {};  // a vector may reach beyond the diagonal
};

template <class T>
void scale_all(const Matrix<T>& state, T factor, int64_t width) {
  rows_scale(state.data, state.row_stride, state.data, state.row_stride, &factor, 0, width, width);
}

// Row j of a full block times lambda_(63-j): what its last row sees of it.
template <class T>
Matrix<T> aged(const Decay<Wide<T>>& decay, const Matrix<T>& rows, const Matrix<T>& space, int64_t width) {
  rows_scale(space.data, space.row_stride, rows.data, rows.row_stride, decay.powers() + kGrid - 1, -1, kGrid, width);
  return space;
}

// S = lambda_64 S + sum over a full block's j of (lambda_(63-j) k_j)^T v_j. An S not `known` is zero and starts from
// +0, which is the same bits. `space`: for a block's rows.
template <class T>
void close_block(const Decay<Wide<T>>& decay, const Matrix<Wide<T>>& state, bool known, const Matrix<T>& k,
                 const Matrix<T>& v, const Matrix<T>& space, int64_t width) {
  if (known) scale_all(state, decay(kGrid), width);
  multiply(state, aged(decay, k, space, width).transposed(), v, width, width, kGrid,
           known ? Store::add : Store::overwrite);
}

}  // namespace fulgur::cpu
