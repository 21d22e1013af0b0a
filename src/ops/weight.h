// Weight: a matrix as it is stored. Quantisation ends at this struct: only linear, expert_linear and embedding read
// one, and of these expert_linear alone one that is quantised.
#pragma once
#include "base/tensor.h"

namespace fulgur {

inline constexpr int64_t kScaleColumns = 128;  // of a row, that share a scale

struct Weight {
  Tensor values;       // [out, in], or [experts, out, in]; i8 where it is quantised
  Tensor scales = {};  // f32 [experts, out, scale_count(in)]; absent when the values are not quantised
  int64_t out() const { return values.dim(-2); }
  int64_t in() const { return values.dim(-1); }
};

FULGUR_HOST_DEVICE constexpr int64_t scale_count(int64_t columns) {
  return (columns + kScaleColumns - 1) / kScaleColumns;
}

// Bytes of one of several matrices, with its scales.
inline int64_t bytes_of_expert(const Weight& w) {
  return w.values.at(0).bytes() + (w.scales ? w.scales.at(0).bytes() : 0);
}

// Of experts' matrices, which may be quantised.
inline void expect_sound(const Weight& w) {
  if (!w.scales) return;
  expect(w.values.dtype == DType::i8, "quantised weights are i8");
  expect(w.scales.is(DType::f32, {w.values.dim(0), w.out(), scale_count(w.in())}), "a scale for 128 columns of a row");
  expect(w.values.at(0).dense() && w.scales.at(0).dense(), "an expert's quantised matrix and its scales are dense");
}

// What a quantised element is worth in a run of type T, rounded once: the scale has the run's type first, so that the
// product of a bf16 run is exact before it is rounded.
template <class T>
FULGUR_HOST_DEVICE T dequantised(int8_t value, float scale) {
  if constexpr (sizeof(T) == 2) return T(float(value) * float(T(scale)));
  else return T(value) * T(scale);
}

}  // namespace fulgur
