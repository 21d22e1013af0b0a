// narrow against rounding as it is defined: the nearest of the two bf16 around a number, the even one of two as near.
#include "ops/narrow.h"

#include <cmath>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

float widened(uint32_t bits) { return __builtin_bit_cast(float, bits << 16); }

// Of a number that is not beyond the largest bf16.
double rounded(double x) {
  const float near = float(x);
  const uint32_t below = __builtin_bit_cast(uint32_t, near) >> 16;  // toward zero
  const double down = double(widened(below)), up = double(widened(below + 1)), middle = (down + up) / 2;
  if (x == middle) return below % 2 == 0 ? down : up;
  return std::abs(x) < std::abs(middle) ? down : up;
}

TEST(Narrow, EqualsTheOracle) {
  for (const int64_t count : {1, 7, 8, 1024, 70001}) {
    Bench bench(size_t(1) << 22);
    CaseStream stream({}, 3);
    const Tensor x = bench.random(DType::f32, {count}, 1, 1e3), y = bench.empty(DType::bf16, {count});
    for (int64_t i = 0; i < count; i += 3) set(x, i, double(widened(0x3f80 + uint32_t(i) % 512)) * (1 + 0x1p-9));
    if (count > 10) set(x, 1, 0x1.01p0), set(x, 2, 0x1.03p0), set(x, 4, -0.0), set(x, 5, INFINITY), set(x, 7, 1e-41);
    narrow(stream, {.y = y, .x = x});
    for (int64_t i = 0; i < count; ++i) {
      const double want = std::isinf(get(x, i)) ? get(x, i) : rounded(get(x, i));
      ASSERT_EQ(get(y, i), want) << i << ": " << get(x, i);
    }
    EXPECT_TRUE(count < 10 || std::signbit(get(y, 4)));
  }
}

TEST(Narrow, NeitherThreadsNorPlaceChangeBits) {
  Bench bench(size_t(1) << 20);
  CaseStream one, three({}, 3);
  const Tensor x = bench.random(DType::f32, {5001}, 1);
  const Tensor whole = bench.empty(DType::bf16, {5001}), part = bench.empty(DType::bf16, {5001});
  narrow(one, {.y = whole, .x = x});
  narrow(three, {.y = part.rows(1, 5001), .x = x.rows(1, 5001)});
  EXPECT_TRUE(same_bits(whole.rows(1, 5001), part.rows(1, 5001)));
}

TEST(Narrow, RefusesOtherShapesAndTypes) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor x = bench.random(DType::f32, {17}, 1), y = bench.empty(DType::bf16, {17});
  EXPECT_BROKEN(narrow(stream, {.y = y.rows(0, 6), .x = x}), "y is bf16 and as long as x");
  EXPECT_BROKEN(narrow(stream, {.y = x, .x = x}), "y is bf16 and as long as x");
  EXPECT_BROKEN(narrow(stream, {.y = y, .x = y}), "x is flat and f32");
}

}  // namespace
}  // namespace fulgur
