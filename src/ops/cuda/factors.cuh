// The factors of a matrix product c = a b, or added to c, as the operators hand them to whichever kernel computes it.
#pragma once
#include "device/launch.cuh"
#include "ops/cuda/matrix_unit.cuh"

namespace fulgur::cuda {

// Element (r, c) lies at data + r * row + c * column; one of the two is 1.
template <class T>
struct Strided {
  T* data;
  int64_t row, column;
};

// The rows of groups that a product is made of: a product for each group.
struct Groups {
  const int32_t* begin = nullptr;  // [count + 1]; null: there is one group, of all rows
  int64_t count = 1;
  int64_t b_apart = 0, c_apart = 0;  // elements between the groups' matrices
  // Where k runs along rows: steps begin anew where the row numbers `numbers` pass a multiple of `cut`; 0: nowhere.
  const int32_t* numbers = nullptr;
  int64_t cut = 0;
};

// Weights of groups in int8 (ops/weight.h): for each group a matrix [n, k] and its scales, both dense.
struct QuantisedWeights {
  const int8_t* values;
  const float* scales;
  int64_t apart, scales_apart;  // elements between the groups'
};

template <class A, class B, class C>
struct Factors {
  Strided<const A> a;  // [m, k]
  Strided<const B> b;  // [k, n]
  Strided<C> c;        // [m, n]
  int64_t m, n, k;
  bool adds;
  Groups groups;
};

template <class C>
__device__ inline float number_at(const C* c) {
  return float(*c);
}
__device__ inline void put_number(float* c, float v) { *c = v; }
__device__ inline void put_number(bf16* c, float v) { c->bits = uint16_t(bf16_pair(v, 0)); }

}  // namespace fulgur::cuda
