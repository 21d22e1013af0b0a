// The matrix product of the CPU twins. Every output is one fma chain over k ascending, that starts from +0 or from the
// value already in c; SIMD lanes run over outputs. So its bits depend neither on the rows around it, nor on threads,
// nor on the instruction set.
#pragma once
#include <cstdint>

#include "base/threads.h"
#include "ops/linear.h"

namespace fulgur::cpu {

// A matrix in memory; a transpose is the same memory with the strides exchanged.
template <class T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;  // elements
  Matrix transposed() const { return {data, column_stride, row_stride}; }
};

template <class T>
Matrix(T*, int64_t, int64_t) -> Matrix<T>;

// The columns of a b that is quantised: rows of i8 numbers, k along them, with a scale for each kScaleColumns steps.
struct QuantisedColumns {
  const int8_t* values = nullptr;  // null: b is not quantised
  const float* scales = nullptr;
  int64_t stride = 0, scale_stride = 0;  // elements between columns
  // step: a multiple of kScaleColumns.
  QuantisedColumns from(int64_t column, int64_t step = 0) const {
    return {values + column * stride + step, scales + column * scale_stride + step / kScaleColumns, stride,
            scale_stride};
  }
};

// c[m, n] = (store == add ? c : 0) + sum over k of a[m, k] * b[k, n].
template <class T>
struct Product {
  Matrix<T> c;  // column_stride 1
  Matrix<const T> a, b;
  int64_t m, n, k;
  Store store = Store::overwrite;
  QuantisedColumns quantised = {};  // in b's place, of which the product has the bits that b dequantised would give
};

// T: float, double. The pool's threads divide the outputs.
template <class T>
void gemm(Threads& threads, const Product<T>& product);

// Several products of one kind at once (the experts): threads divide the outputs of all of them.
template <class T>
void gemm_batch(Threads& threads, const Product<T>* products, int64_t count);

// On the calling thread, for use inside a parallel region; keeps its packing space per thread.
template <class T>
void gemm_serial(const Product<T>& product);

}  // namespace fulgur::cpu
