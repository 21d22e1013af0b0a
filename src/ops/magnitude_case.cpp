// magnitude: the values, the very order of its sums, and what is not finite.
#include "ops/magnitude.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

void add(Tensor sums, Tensor x, int threads = 2) {
  CaseStream stream({}, threads);
  magnitude(stream, {.sums = sums, .x = x});
}

// The order that the contract fixes, element by element.
void ordered(const Tensor& sums, const Tensor& x) {
  for (int64_t row = 0; row < x.dim(0); ++row) {
    double lane[16] = {};
    for (int64_t i = 0; i < x.dim(1); ++i) {
      const double value = get(x, row * x.dim(1) + i);
      lane[i % 16] += value * value;
      set(sums, 1, std::max(get(sums, 1), std::abs(value)));
    }
    for (const int step : {8, 4, 2, 1})
      for (int j = 0; j < step; ++j) lane[j] += lane[j + step];
    set(sums, 0, get(sums, 0) + lane[0]);
  }
}

TEST(Magnitude, EqualsTheOracleBitForBit) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t rows : {1, 3, 70})
      for (const int64_t width : {1, 15, 16, 17, 130}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << 'x' << width);
        Bench bench(size_t(1) << 20);
        const Tensor x = bench.random(type, {rows, width}, 1), have = bench.empty(DType::f64, {2});
        set(have, 0, 0.3), set(have, 1, rows == 3 ? 1e9 : 0.01);  // what earlier calls have found
        const Tensor want = bench.converted(have, DType::f64);
        ordered(want, x);
        add(have, x);
        EXPECT_TRUE(same_bits(have, want)) << get(have, 0) << ' ' << get(want, 0);
      }
}

TEST(Magnitude, CallsAndThreadsChangeNoBit) {
  Bench bench(size_t(1) << 22);
  const Tensor x = bench.random(DType::f32, {1000, 33}, 1);
  const Tensor whole = bench.zeros(DType::f64, {2}), pieces = bench.zeros(DType::f64, {2});
  add(whole, x, 3);
  for (const auto& [begin, end] : {std::pair{0, 1}, {1, 500}, {500, 1000}}) add(pieces, x.rows(begin, end), 1);
  EXPECT_TRUE(same_bits(whole, pieces));
}

TEST(Magnitude, SaysWhatIsNotFinite) {
  Bench bench(size_t(1) << 16);
  const Tensor x = bench.zeros(DType::f32, {3, 20}), sums = bench.zeros(DType::f64, {2});
  set(x, 5, -3e38), set(x, 30, 2);
  add(sums, x);
  EXPECT_EQ(get(sums, 0), double(3e38f) * double(3e38f) + 4) << "no overflow";
  EXPECT_EQ(get(sums, 1), double(3e38f));
  set(x, 30, -INFINITY);
  add(sums, x);
  EXPECT_TRUE(get(sums, 0) == INFINITY && get(sums, 1) == INFINITY);
  set(x, 31, NAN);
  add(sums, x);
  EXPECT_TRUE(std::isnan(get(sums, 0)) && std::isnan(get(sums, 1)));
  set(x, 30, 1), set(x, 31, 1);
  add(sums, x);
  EXPECT_TRUE(std::isnan(get(sums, 0)) && std::isnan(get(sums, 1))) << "it is not forgotten";
}

TEST(Magnitude, RefusesOtherShapesAndTypes) {
  Bench bench(size_t(1) << 16);
  CaseStream stream;
  const Tensor x = bench.zeros(DType::f32, {3, 20}), sums = bench.zeros(DType::f64, {2});
  EXPECT_BROKEN(magnitude(stream, {.sums = sums, .x = bench.zeros(DType::f32, {3})}), "x has rows");
  EXPECT_BROKEN(magnitude(stream, {.sums = bench.zeros(DType::f32, {2}), .x = x}), "greatest magnitude are f64");
  EXPECT_BROKEN(magnitude(stream, {.sums = bench.zeros(DType::f64, {3}), .x = x}), "greatest magnitude are f64");
}

}  // namespace
}  // namespace fulgur
