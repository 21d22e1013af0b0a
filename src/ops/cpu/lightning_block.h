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

  // Row i of the products of a block's rows: column j times lambda_(i-j) up to the diagonal, zero above it.
  void apply(T* row, int64_t i, int64_t columns) const {
    row_mul(row, row, reversed_ + (kGrid - 1 - i), i + 1);
    std::fill(row + i + 1, row + columns, T(0));
  }

 private:
  T powers_[kGrid + 1], reversed_[kGrid];
};

// Row j of a full block times lambda_(63-j): what its last row sees of it.
template <class T>
Matrix<T> aged(const Decay<Wide<T>>& decay, const Matrix<T>& rows, const Matrix<T>& space, int64_t width) {
  for (int64_t j = 0; j < kGrid; ++j) scale(row_of(space, j), row_of(rows, j), decay(kGrid - 1 - j), width);
  return space;
}

// S = lambda_64 S + sum over a full block's j of (lambda_(63-j) k_j)^T v_j. An S not `known` is zero and starts from
// +0, which is the same bits. `space`: for a block's rows.
template <class T>
void close_block(const Decay<Wide<T>>& decay, const Matrix<Wide<T>>& state, bool known, const Matrix<T>& k,
                 const Matrix<T>& v, const Matrix<T>& space, int64_t width) {
  for (int64_t d = 0; known && d < width; ++d) row_scale(row_of(state, d), row_of(state, d), decay(kGrid), width);
  multiply(state, aged(decay, k, space, width).transposed(), v, width, width, kGrid,
           known ? Store::add : Store::overwrite);
}

}  // namespace fulgur::cpu
