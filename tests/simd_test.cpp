// The row primitives: their order of sums, their functions' accuracy, and equal bits on every instruction set.
#include "ops/cpu/simd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "ops/cpu/isa.h"
#include "tests/row_tables.h"

namespace fulgur::cpu {
namespace {

template <class T>
const WideTable<T>& wide_table(const RowTables& tables) {
  if constexpr (std::is_same_v<T, float>) return tables.f32;
  else return tables.f64;
}

// The order that simd.h promises.
template <class T, class Term>
T sum_in_lanes(int64_t n, Term term) {
  std::array<T, 16> lane{};
  for (int64_t i = 0; i < n; ++i) lane[size_t(i % 16)] += term(size_t(i));
  for (size_t step = 8; step > 0; step /= 2)
    for (size_t j = 0; j < step; ++j) lane[j] += lane[j + step];
  return lane[0];
}

template <class T>
class Simd : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(Simd, Elements);

TYPED_TEST(Simd, SumsInSixteenLanes) {
  using T = TypeParam;
  for (int64_t n = 0; n <= 70; ++n) {
    const auto x = random_row<T>(n, 1), y = random_row<T>(n, 2), z = random_row<T>(n, 3);
    EXPECT_EQ(row_sum(x.data(), n), (sum_in_lanes<T>(n, [&](size_t i) { return x[i]; }))) << n;
    EXPECT_EQ(row_dot(x.data(), y.data(), n), (sum_in_lanes<T>(n, [&](size_t i) { return x[i] * y[i]; }))) << n;
    EXPECT_EQ(row_dot3(x.data(), y.data(), z.data(), n),
              (sum_in_lanes<T>(n, [&](size_t i) { return x[i] * y[i] * z[i]; })))
        << n;
    auto e = x;
    const T sum = row_exp_sum(e.data(), x.data(), T(0.5), n);
    EXPECT_EQ(sum, (sum_in_lanes<T>(n, [&](size_t i) { return e[i]; }))) << n;
    auto shifted = x;
    for (T& v : shifted) v -= T(0.5);
    row_exp(shifted.data(), shifted.data(), n);
    EXPECT_TRUE(same_bits(e, shifted)) << n;
  }
}

TYPED_TEST(Simd, LooksAtTheColumnsSeen) {
  using T = TypeParam;
  constexpr int64_t kStride = 50;
  const Seen seen{.first = 19, .period = 3, .rows = 6, .n = 21};
  const auto x = random_row<T>(6 * kStride, 13);
  auto e = x, want = x;
  T highest[6], shifts[6], sums[6];
  rows_max_seen(highest, x.data(), kStride, seen);
  for (int64_t row = 0; row < 6; ++row) {
    T* const line = want.data() + row * kStride;
    const int64_t count = std::min<int64_t>(20 + row % 3, 21);
    EXPECT_EQ(highest[row], row_max(line, count)) << row;
    shifts[row] = T(1.25) * highest[row];
    row_scale(line, line, T(1.25), count);
    sums[row] = row_exp_sum(line, line, shifts[row], count);
    std::fill(line + count, line + 21, T(0));
  }
  T have[6];
  rows_exp_seen(e.data(), kStride, T(1.25), shifts, have, seen);
  EXPECT_TRUE(same_bits(e, want));
  EXPECT_TRUE(std::equal(sums, sums + 6, have));
}

TYPED_TEST(Simd, FindsTheLargest) {
  using T = TypeParam;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  EXPECT_EQ(row_max<T>(nullptr, 0), -kInfinity);
  for (int64_t n = 1; n <= 70; ++n) {
    auto x = random_row<T>(n, 4);
    for (T& v : x) v -= T(10);  // a lane beyond the row must not win
    EXPECT_EQ(row_max(x.data(), n), *std::max_element(x.begin(), x.end())) << n;
    x[size_t(n - 1)] = kInfinity;
    EXPECT_EQ(row_max(x.data(), n), kInfinity) << n;
  }
}

TYPED_TEST(Simd, RoundsEachProduct) {
  using T = TypeParam;
  for (int64_t n = 0; n <= 150; ++n) {
    const auto x = random_row<T>(n, 5), y = random_row<T>(n, 6), z = random_row<T>(n, 12);
    const T a = T(1.1), b = T(-0.7);
    auto scaled = y, added = y, axpy = y, blend = y, scaled_product = y, axpy_product = y, blend_product = y;
    const std::array<T, 2> factors = {a, b};
    row_scale(scaled.data(), x.data(), a, n);
    row_add(added.data(), x.data(), n);
    row_add_scaled(axpy.data(), x.data(), a, n);
    row_blend(blend.data(), x.data(), a, y.data(), b, n);
    row_scale_mul(scaled_product.data(), x.data(), a, y.data(), n);
    rows_add_products(axpy_product.data(), x.data(), 0, factors.data(), z.data(), 0, 2, n);
    row_blend_mul(blend_product.data(), x.data(), y.data(), a, z.data(), b, n);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(scaled[i], a * x[i]);
      EXPECT_EQ(added[i], y[i] + x[i]);
      EXPECT_EQ(axpy[i], y[i] + a * x[i]);
      EXPECT_EQ(blend[i], a * x[i] + b * y[i]);
      EXPECT_EQ(scaled_product[i], a * x[i] * y[i]);
      EXPECT_EQ(axpy_product[i], (y[i] + a * (x[i] * z[i])) + b * (x[i] * z[i]));
      EXPECT_EQ(blend_product[i], a * (x[i] * y[i]) + b * z[i]);
    }
  }
}

// Distance in units of the last place of what is right.
template <class T>
double ulps(T have, long double want) {
  const T near = T(want);
  const T ulp = std::nextafter(std::abs(near), std::numeric_limits<T>::infinity()) - std::abs(near);
  return double(std::abs((static_cast<long double>(have) - want) / static_cast<long double>(ulp)));
}

TYPED_TEST(Simd, ExpIsAccurate) {
  using T = TypeParam;
  const double low = std::is_same_v<T, float> ? -86 : -700, high = std::is_same_v<T, float> ? 88.7 : 709.7;
  constexpr int64_t kCount = 400'000;
  std::vector<T> x(kCount), y(kCount);
  for (int64_t i = 0; i < kCount; ++i)
    x[size_t(i)] = T(i % 2 == 0 ? low + (high - low) * double(i) / kCount : -2 + 4 * double(i) / kCount);
  row_exp(y.data(), x.data(), kCount);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(y[i], std::exp(static_cast<long double>(x[i]))));
  const double bound = std::is_same_v<T, float> ? 1.5 : 2.0;
  EXPECT_LT(worst, bound);
}

TYPED_TEST(Simd, ExpHasTheRightLimits) {
  using T = TypeParam;
  using Limits = std::numeric_limits<T>;
  constexpr bool kFloat = std::is_same_v<T, float>;
  const T smallest = T(kFloat ? -103.2 : -744.4);  // its exp is the smallest number above 0
  const std::vector<T> x = {-Limits::infinity(),      T(-1e30), T(kFloat ? -104 : -746), smallest, T(-0.0), T(0),
                            T(kFloat ? 88.8 : 709.8), T(1e30),  Limits::infinity()};
  std::vector<T> y(x.size());
  row_exp(y.data(), x.data(), int64_t(x.size()));
  const std::vector<T> want = {
      0, 0, 0, Limits::denorm_min(), 1, 1, Limits::infinity(), Limits::infinity(), Limits::infinity()};
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], want[i]) << x[i];
  T nan = Limits::quiet_NaN();
  row_exp(&nan, &nan, 1);
  EXPECT_TRUE(std::isnan(nan));
  std::vector<T> falling(5000), e(5000);
  for (size_t i = 0; i < falling.size(); ++i) falling[i] = T(kFloat ? -85 : -705) - T(i) * T(kFloat ? 0.004 : 0.0085);
  row_exp(e.data(), falling.data(), int64_t(e.size()));
  for (size_t i = 1; i < e.size(); ++i) EXPECT_LE(e[i], e[i - 1]) << falling[i];
}

TYPED_TEST(Simd, GatesAreAccurate) {
  using T = TypeParam;
  constexpr int64_t kCount = 20'001;
  std::vector<T> x(kCount), ones(kCount, 1), sigmoid(kCount), silu(kCount), slope(kCount),
      up = random_row<T>(kCount, 7);
  std::vector<T> dy = random_row<T>(kCount, 8), gated(kCount), dgate(kCount), dup(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[size_t(i)] = T(-40 + 80 * double(i) / (kCount - 1));
  row_gated_scale_mul(sigmoid.data(), ones.data(), T(1), ones.data(), x.data(), kCount);
  rows_silu(silu.data(), kCount, x.data(), kCount, 1, kCount);
  rows_silu_backward(slope.data(), kCount, dy.data(), kCount, x.data(), kCount, 1, kCount);
  row_swiglu(gated.data(), x.data(), up.data(), kCount);
  row_swiglu_backward(dgate.data(), dup.data(), dy.data(), x.data(), up.data(), kCount);
  const double bound = 16 * double(std::numeric_limits<T>::epsilon());
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = double(x[i]), s = 1 / (1 + std::exp(-v)), d = s * (1 + v * (1 - s));
    EXPECT_NEAR(double(sigmoid[i]), s, bound * s);
    EXPECT_NEAR(double(silu[i]), v * s, bound * std::abs(v * s));
    EXPECT_NEAR(double(slope[i]), double(dy[i]) * d, bound * std::abs(double(dy[i])));
    EXPECT_EQ(gated[i], silu[i] * up[i]);
    EXPECT_EQ(dup[i], dy[i] * silu[i]);
    EXPECT_NEAR(double(dgate[i]), double(dy[i]) * double(up[i]) * d, bound * std::abs(double(dy[i]) * double(up[i])));
  }
}

TYPED_TEST(Simd, GatesHaveTheRightLimits) {
  using T = TypeParam;
  const std::vector<T> x = {T(-1e30), T(1e30), 0}, ones = {1, 1, 1};
  std::vector<T> y(3);
  rows_silu(y.data(), 3, x.data(), 3, 1, 3);
  EXPECT_EQ(y, (std::vector<T>{0, T(1e30), 0}));
  row_gated_scale_mul(y.data(), ones.data(), T(1), ones.data(), x.data(), 3);
  EXPECT_EQ(y, (std::vector<T>{0, 1, T(0.5)}));
  rows_silu_backward(y.data(), 3, ones.data(), 3, x.data(), 3, 1, 3);
  EXPECT_EQ(y, (std::vector<T>{0, 1, T(0.5)}));
}

template <class T>
constexpr AdamWStep<T> kStep = {.clip = T(0.7),
                                .keep1 = T(0.9),
                                .take1 = T(0.1),
                                .keep2 = T(0.95),
                                .take2 = T(0.05),
                                .unbias1 = T(1.9),
                                .unbias2 = T(1.4),
                                .rate = T(0.01),
                                .eps = T(1e-8)};

// Everything that the tables compute from wide rows of n, laid end to end.
template <class T>
std::vector<T> everything(const WideTable<T>& f, const std::vector<T>& x, const std::vector<T>& y,
                          const std::vector<T>& z) {
  const auto n = int64_t(x.size());
  std::vector<T> all = {f.sum(x.data(), n), f.max(x.data(), n)};
  std::vector<T> out, more;
  const auto run = [&](auto call) {
    out = y, more = z, call(out.data(), more.data());
    all.insert(all.end(), out.begin(), out.end()), all.insert(all.end(), more.begin(), more.end());
  };
  run([&](T* o, T*) { f.add_scaled(o, x.data(), T(1.3), n); });
  run([&](T* o, T*) { f.exp(o, x.data(), n); });
  run([&](T* o, T*) { all.push_back(f.exp_sum(o, x.data(), T(2), n)); });
  run([&](T* o, T*) {
    const Seen seen{.first = n / 6, .period = 2, .rows = 3, .n = n / 3};
    T highest[3], sums[3];
    f.max_seen(highest, x.data(), n / 3, seen), f.exp_seen(o, n / 3, T(1.3), highest, sums, seen);
    all.insert(all.end(), highest, highest + 3), all.insert(all.end(), sums, sums + 3);
  });
  std::vector<T> moment(x.size());
  for (size_t i = 0; i < x.size(); ++i) moment[i] = x[i] * x[i];
  run([&](T* o, T* m) { f.adamw(o, m, moment.data(), y.data(), kStep<T>, T(0.1), n); });
  all.insert(all.end(), moment.begin(), moment.end());
  return all;
}

TYPED_TEST(Simd, EveryInstructionSetGivesTheSameBits) {
  using T = TypeParam;
  const std::vector<Named> tables = available_tables();
  for (int64_t n = 0; n <= 150; ++n) {
    for (const double spread : {4.0, 130.0, 1000.0}) {  // also where exp leaves the normal numbers
      const auto x = random_row<T>(n, 9, spread), y = random_row<T>(n, 10), z = random_row<T>(n, 11);
      const std::vector<T> first = everything(wide_table<T>(*tables[0].tables), x, y, z);
      for (const Named& other : tables)
        EXPECT_TRUE(same_bits(everything(wide_table<T>(*other.tables), x, y, z), first)) << other.name << " n " << n;
    }
  }
}

TEST(SimdBf16, EveryValueComesBack) {
  std::vector<bf16> all(65536), back(all.size());
  std::vector<float> wide(all.size());
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = uint16_t(i);
  row_widen(wide.data(), all.data(), int64_t(all.size()));
  row_narrow(back.data(), wide.data(), int64_t(all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    const bool signalling = (i & 0x7f80) == 0x7f80 && (i & 0x7f) != 0 && (i & 0x40) == 0;
    EXPECT_EQ(__builtin_bit_cast(uint32_t, wide[i]), uint32_t(i) << 16);
    EXPECT_EQ(back[i].bits, signalling ? i | 0x40 : i);
  }
}

// Around every value: half way to the next, one unit to either side, and the lowest bits of a NaN.
std::vector<float> between_values() {
  std::vector<float> all;
  for (uint32_t high = 0; high < 65536; ++high)
    for (const uint32_t low : {0x0001, 0x7fff, 0x8000, 0x8001, 0xffff})
      all.push_back(__builtin_bit_cast(float, high << 16 | low));
  return all;
}

TEST(SimdBf16, RoundsToNearestEven) {
  const std::vector<float> from = between_values();
  std::vector<bf16> to(from.size());
  row_narrow(to.data(), from.data(), int64_t(from.size()));
  for (size_t i = 0; i < from.size(); ++i) EXPECT_EQ(to[i].bits, bf16(from[i]).bits) << from[i];
  const float ties[] = {0x1.01p0f, 0x1.03p0f, -0x1.01p0f, 0x1.0101p0f, 0x1p-133f, 0x1.8p-134f, 0x1p-134f, 0x1.ffp127f};
  const float even[] = {1, 0x1.04p0f, -1, 0x1.02p0f, 0x1p-133f, 0x1p-133f, 0, HUGE_VALF};
  std::vector<bf16> rounded(std::size(ties));
  row_narrow(rounded.data(), ties, int64_t(std::size(ties)));
  for (size_t i = 0; i < std::size(ties); ++i) EXPECT_EQ(float(rounded[i]), even[i]) << ties[i];
}

TEST(SimdBf16, EveryInstructionSetGivesTheSameBits) {
  const std::vector<float> from = between_values();
  for (const Named& named : available_tables())
    for (int64_t n = 0; n <= 130; ++n) {
      const size_t begin = size_t(n * 2003 % 327000);  // infinities, NaN and numbers below the normal ones among them
      std::vector<uint16_t> narrow(size_t(n + 1), 0xabcd), want(narrow);
      std::vector<float> wide(size_t(n + 1), 7), exact(wide);
      for (size_t i = 0; i < size_t(n); ++i) {
        want[i] = bf16(from[begin + i]).bits;
        exact[i] = float(bf16(from[begin + i]));
      }
      named.tables->narrow(narrow.data(), from.data() + begin, n);
      named.tables->widen(wide.data(), want.data(), n);
      EXPECT_EQ(narrow, want) << named.name << " n " << n;
      EXPECT_TRUE(same_bits(wide, exact)) << named.name << " n " << n;
    }
}

TEST(SimdTempered, IsTheDifferenceOverTheTemperature) {
  std::vector<float> x = random_row<float>(67, 1, 900);
  x[3] = x[40] = 950, x[5] = -INFINITY, x[66] = -3e38F;
  for (const Named& named : available_tables()) {
    for (const double temperature : {1.0, 0.5, 3.0}) {
      std::vector<double> y(x.size()), want(x.size());
      for (size_t i = 0; i < x.size(); ++i) want[i] = std::max(-1000.0, (double(x[i]) - 950) / temperature);
      named.tables->tempered(y.data(), x.data(), 950, temperature, int64_t(x.size()));
      EXPECT_EQ(y, want) << named.name << " temperature " << temperature;
    }
    const float infinite[] = {INFINITY, 1};
    double y[2];
    named.tables->tempered(y, infinite, INFINITY, 1, 2);
    EXPECT_EQ(y[0], 0) << named.name;
    EXPECT_EQ(y[1], -1000) << named.name;
  }
}

TEST(Isa, IsAmongWhatTheCpuHas) {
  EXPECT_TRUE(has(isa()));
  EXPECT_TRUE(has(Isa::generic));
}

// Ends the process as fulgur would, with the instruction set's name or the error on standard error.
[[noreturn]] void pick_and_exit(const char* wish) {
  setenv("FULGUR_ISA", wish, 1);
  try {
    std::fprintf(stderr, "picked %s\n", name_of(isa()));
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(exit_code(error.kind()));
  }
  std::exit(0);
}

// Suites of this name run first, so that a child is forked before isa() keeps an answer.
TEST(IsaDeathTest, IsPickedByTheEnvironment) {
  for (const Isa wish : {Isa::neon, Isa::avx2, Isa::avx512}) {
    if (has(wish)) {
      EXPECT_EXIT(pick_and_exit(name_of(wish)), testing::ExitedWithCode(0), name_of(wish));
    }
  }
  for (const char* wrong : {has(Isa::amx) ? "AMX" : "amx", "sse2", "generic"})
    EXPECT_EXIT(pick_and_exit(wrong), testing::ExitedWithCode(2), "allowed here: .*or unset");
}

}  // namespace
}  // namespace fulgur::cpu
