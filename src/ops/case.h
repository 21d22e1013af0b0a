// What the operators' cases share: seeded tensors, distances to an f64 oracle, central differences, broken promises.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "base/random.h"
#include "device/arena.h"
#include "ops/case_stream.h"
#include "ops/operator.h"

namespace fulgur::cases {

// Memory for one test. Tensors live as long as it.
class Bench {
 public:
  explicit Bench(size_t bytes = size_t(64) << 20) : memory_(bytes + 256), arena_(aligned(), bytes, {}) {}
  Arena& arena() { return arena_; }

  Tensor empty(DType dtype, std::initializer_list<int64_t> shape) {  // poisoned: what is not written shows as NaN
    const Tensor t = arena_.alloc(dtype, shape);
    std::memset(t.data, 0xff, size_t(t.bytes()));
    return t;
  }
  Tensor zeros(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.alloc(dtype, shape);
    std::memset(t.data, 0, size_t(t.bytes()));
    return t;
  }
  // Uniform in (centre - spread, centre + spread), a function of seed and element alone; f64 draws are rounded to f32
  // first, so that both types hold the same numbers.
  Tensor random(DType dtype, std::initializer_list<int64_t> shape, uint64_t seed, double spread = 1, double centre = 0);
  Tensor indices(DType dtype, const std::vector<int64_t>& values);  // i32 or i64 [n]
  Tensor converted(Tensor from, DType dtype);                       // dense, same shape

 private:
  std::byte* aligned() {
    const uintptr_t at = (reinterpret_cast<uintptr_t>(memory_.data()) + 255) / 256 * 256;
    return reinterpret_cast<std::byte*>(at);
  }
  std::vector<std::byte> memory_;
  Arena arena_;
};

// Element number i in row-major order, whatever the strides.
inline int64_t offset_of(const Tensor& t, int64_t i) {
  int64_t offset = 0;
  for (int axis = t.rank - 1; axis >= 0; --axis) offset += i % t.dim(axis) * t.stride[size_t(axis)], i /= t.dim(axis);
  return offset;
}

inline double get(const Tensor& t, int64_t i) {
  const int64_t at = offset_of(t, i);
  switch (t.dtype) {
    case DType::f64: return reinterpret_cast<const double*>(t.data)[at];
    case DType::f32: return double(reinterpret_cast<const float*>(t.data)[at]);
    case DType::bf16: return double(float(reinterpret_cast<const bf16*>(t.data)[at]));
    case DType::i8: return double(reinterpret_cast<const int8_t*>(t.data)[at]);
    case DType::i32: return double(reinterpret_cast<const int32_t*>(t.data)[at]);
    case DType::i64: return double(reinterpret_cast<const int64_t*>(t.data)[at]);
    default: ADD_FAILURE() << "no such element type in a case"; return NAN;
  }
}

inline void set(const Tensor& t, int64_t i, double value) {
  const int64_t at = offset_of(t, i);
  switch (t.dtype) {
    case DType::f64: reinterpret_cast<double*>(t.data)[at] = value; break;
    case DType::f32: reinterpret_cast<float*>(t.data)[at] = float(value); break;
    case DType::bf16: reinterpret_cast<bf16*>(t.data)[at] = bf16(float(value)); break;
    case DType::i8: reinterpret_cast<int8_t*>(t.data)[at] = int8_t(value); break;
    case DType::i32: reinterpret_cast<int32_t*>(t.data)[at] = int32_t(value); break;
    case DType::i64: reinterpret_cast<int64_t*>(t.data)[at] = int64_t(value); break;
    default: ADD_FAILURE() << "no such element type in a case";
  }
}

inline Tensor Bench::random(DType dtype, std::initializer_list<int64_t> shape, uint64_t seed, double spread,
                            double centre) {
  const Tensor t = empty(dtype, shape);
  for (int64_t i = 0; i < t.count(); ++i)
    set(t, i, double(float(centre + spread * (2 * unit_interval(philox(seed, uint64_t(i), 0)[0]) - 1))));
  return t;
}

inline Tensor Bench::indices(DType dtype, const std::vector<int64_t>& values) {
  const Tensor t = empty(dtype, {int64_t(values.size())});
  for (size_t i = 0; i < values.size(); ++i) set(t, int64_t(i), double(values[i]));
  return t;
}

inline Tensor Bench::converted(Tensor from, DType dtype) {
  Tensor t = from;  // the shape, then dense strides
  int64_t step = 1;
  for (int axis = t.rank - 1; axis >= 0; --axis) t.stride[size_t(axis)] = step, step *= t.dim(axis);
  t.dtype = dtype;
  t.data = arena_.alloc(dtype, {step}).data;
  for (int64_t i = 0; i < t.count(); ++i) set(t, i, get(from, i));
  return t;
}

// |have - want| / |want| in the Euclidean norm, or |have| where want is all zero; NaN anywhere gives NaN.
inline double relative_gap(const Tensor& have, const Tensor& want) {
  EXPECT_TRUE(have.same_shape(want));
  double gap = 0, size = 0;
  for (int64_t i = 0; i < have.count(); ++i) {
    const double d = get(have, i) - get(want, i);
    gap += d * d, size += get(want, i) * get(want, i);
  }
  return size == 0 ? std::sqrt(gap) : std::sqrt(gap / size);
}

inline double largest_gap(const Tensor& have, const Tensor& want) {
  EXPECT_TRUE(have.same_shape(want));
  double gap = 0;
  for (int64_t i = 0; i < have.count(); ++i) {
    const double d = std::abs(get(have, i) - get(want, i));
    gap = d >= gap || std::isnan(d) ? d : gap;  // once NaN, stays NaN
    if (std::isnan(d)) return NAN;
  }
  return gap;
}

// The same bytes, strides aside.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.same_shape(b) || a.dtype != b.dtype) return false;
  const size_t size = size_t(byte_size(a.dtype));
  for (int64_t i = 0; i < a.count(); ++i)
    if (std::memcmp(a.data + offset_of(a, i) * int64_t(size), b.data + offset_of(b, i) * int64_t(size), size) != 0)
      return false;
  return true;
}

// Whether sums over rows agree that were cut at different rows: in every bit on the CPU, which adds row by row; a CUDA
// twin adds pieces of rows.
inline bool same_sums(const Tensor& a, const Tensor& b) {
  return case_device->given() ? relative_gap(a, b) <= 1e-6 : same_bits(a, b);
}

// Runs an operator on bf16 tensors and on f32 copies of them: what it writes in bf16 is the f32 result, rounded once,
// and what it writes wide has the same bits.
template <class Operands>
void expect_rounded_once(Bench& bench, Stream& stream, void (*run)(Stream&, const Operands&), const Operands& op) {
  const Operands exact = with_tensors(op, [&](Operand o) {
    return bench.converted(*o.tensor, o.tensor->dtype == DType::bf16 ? DType::f32 : o.tensor->dtype);
  });
  run(stream, exact), run(stream, op);
  std::vector<Tensor> wanted;
  for_each_operand(exact, [&](Operand o) { wanted.push_back(*o.tensor); });
  size_t number = 0;
  for_each_operand(op, [&](Operand o) {
    EXPECT_TRUE(same_bits(*o.tensor, bench.converted(wanted[number], o.tensor->dtype))) << "operand " << number;
    ++number;
  });
}

// |numeric - gradient| / |numeric| over all elements of an f64 input, numeric by central differences of loss() with
// the relative step given.
template <class Loss>
double gradient_gap(Loss&& loss, const Tensor& input, const Tensor& gradient, double step = 1e-6) {
  EXPECT_TRUE(input.dtype == DType::f64 && input.same_shape(gradient));
  double gap = 0, size = 0;
  for (int64_t i = 0; i < input.count(); ++i) {
    const double kept = get(input, i), h = step * std::max(1.0, std::abs(kept));
    set(input, i, kept + h);
    const double up = loss();
    set(input, i, kept - h);
    const double down = loss();
    set(input, i, kept);
    const double numeric = (up - down) / (2 * h), d = numeric - get(gradient, i);
    gap += d * d, size += numeric * numeric;
  }
  return size == 0 ? std::sqrt(gap) : std::sqrt(gap / size);
}

// sum over elements of a * b: the usual scalar loss, with b the gradient that flows in.
inline double inner(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) sum += get(a, i) * get(b, i);
  return sum;
}

}  // namespace fulgur::cases

// The statement breaks a promise whose text contains `promise`: the process ends with exit code 70.
#define EXPECT_BROKEN(statement, promise) \
  EXPECT_EXIT(statement, ::testing::ExitedWithCode(::fulgur::kExitBrokenPromise), promise)
