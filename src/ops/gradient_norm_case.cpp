// gradient_norm: the value, and the very order of its sums.
#include "ops/gradient_norm.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

double norm_of(Bench& bench, Tensor gradient, int threads) {
  CaseStream stream({}, threads);
  const Tensor norm = bench.empty(DType::f64, {1});
  gradient_norm(stream, {.norm = norm, .gradient = gradient});
  return get(norm, 0);
}

// The order that the contract fixes, element by element.
double ordered_norm(const Tensor& gradient) {
  double total = 0;
  for (int64_t begin = 0; begin < gradient.count(); begin += kNormPiece) {
    double lane[16] = {};
    for (int64_t i = begin; i < std::min(begin + kNormPiece, gradient.count()); ++i)
      lane[(i - begin) % 16] += get(gradient, i) * get(gradient, i);
    for (const int step : {8, 4, 2, 1})
      for (int j = 0; j < step; ++j) lane[j] += lane[j + step];
    total += lane[0];
  }
  return std::sqrt(total);
}

TEST(GradientNorm, EqualsTheOracleBitForBit) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t count : {1, 17, 130, 65536, 65537, 200001}) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << count);
      Bench bench(size_t(1) << 22);
      const Tensor gradient = bench.random(type, {count}, 1);
      long double sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += static_cast<long double>(get(gradient, i)) * get(gradient, i);
      const double norm = norm_of(bench, gradient, 1);
      EXPECT_NEAR(norm, double(std::sqrt(sum)), 1e-12 * norm);
      EXPECT_EQ(norm, ordered_norm(gradient));
      EXPECT_EQ(norm, norm_of(bench, gradient, 3));
    }
}

TEST(GradientNorm, LargeElementsDoNotOverflow) {
  Bench bench(1 << 16);
  const Tensor gradient = bench.zeros(DType::f32, {33});
  set(gradient, 3, 3e30), set(gradient, 32, -4e30);
  EXPECT_NEAR(norm_of(bench, gradient, 1), 5e30, 1e24);
  set(gradient, 7, NAN);
  EXPECT_TRUE(std::isnan(norm_of(bench, gradient, 1)));
}

TEST(GradientNorm, RefusesOtherShapesAndTypes) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor gradient = bench.zeros(DType::f32, {33}), norm = bench.zeros(DType::f64, {1});
  EXPECT_BROKEN(gradient_norm(stream, {.norm = norm, .gradient = gradient.split({3, 11})}), "the gradient is flat");
  EXPECT_BROKEN(gradient_norm(stream, {.norm = norm, .gradient = bench.zeros(DType::bf16, {33})}),
                "the gradient is flat");
  EXPECT_BROKEN(gradient_norm(stream, {.norm = bench.zeros(DType::f32, {1}), .gradient = gradient}), "the norm is f64");
}

}  // namespace
}  // namespace fulgur
