// The primitives on stored rows: equal bits on every instruction set, bf16 rounded once, blocks row after row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "ops/cpu/simd.h"
#include "tests/row_tables.h"

namespace fulgur::cpu {
namespace {

template <class T>
const RowTable<Bits<T>, Wide<T>>& row_table(const RowTables& tables) {
  if constexpr (std::is_same_v<T, bf16>) return tables.bf16_rows;
  else if constexpr (std::is_same_v<T, float>) return tables.f32_rows;
  else return tables.f64_rows;
}

// Everything that a table computes from stored rows, laid end to end: three rows of n lie end to end in each operand.
template <class S, class T>
std::vector<T> everything(const RowTable<S, T>& f, std::vector<S> x, const std::vector<S>& y, const std::vector<S>& z,
                          const std::vector<T>& wide) {
  const auto n = int64_t(x.size() / 3);
  std::vector<T> all = {f.dot(x.data(), y.data(), n), f.dot3(x.data(), y.data(), z.data(), n),
                        f.gated_dot3(x.data(), y.data(), z.data(), z.data(), n)};
  std::vector<S> out, more;
  std::vector<T> sum;
  const auto run = [&](auto call) {
    out = y, more = z, sum = wide, call(out.data(), more.data());
    all.insert(all.end(), out.begin(), out.end()), all.insert(all.end(), more.begin(), more.end());
    all.insert(all.end(), sum.begin(), sum.end());
  };
  const int64_t taken[] = {2, 0, 2, 1};
  const int32_t chosen[] = {-1, 2, 1}, none[] = {-1};
  const T factors[] = {T(0.3), T(-1.2), T(0.7)};
  run([&](S*, S*) { f.add(sum.data(), x.data(), n); });
  run([&](S* o, S*) { f.scale(o, x.data(), T(1.3), n); });
  run([&](S* o, S*) { f.blend(o, x.data(), T(1.3), y.data(), T(-0.3), n); });
  run([&](S* o, S*) { f.scale_mul(o, x.data(), T(1.3), y.data(), n); });
  run([&](S* o, S*) { f.gated_scale_mul(o, x.data(), T(1.3), y.data(), z.data(), n); });
  run([&](S* o, S* m) {
    f.gated_backward({o, m, sum.data(), y.data(), x.data(), z.data(), y.data(), T(0.9), T(0.2)}, n);
  });
  run([&](S* o, S*) { f.blend_mul(o, x.data(), y.data(), T(1.3), z.data(), T(-0.3), n); });
  run([&](S* o, S*) { f.gather(o, x.data(), n, taken, 4, n); });
  run([&](S* o, S* m) {
    f.combine(o, x.data(), n, chosen, factors, 3, n), f.combine(m, x.data(), n, none, factors, 1, n);
  });
  run([&](S* o, S*) { f.swiglu(o, x.data(), y.data(), n); });
  run([&](S* o, S* m) { f.swiglu_backward(o, m, z.data(), x.data(), y.data(), n); });
  run([&](S* o, S* m) { f.turn(o, m, wide.data(), wide.data() + n, n); });
  run([&](S* o, S*) { f.silu(o, n, x.data(), n, 3, n); });
  run([&](S* o, S*) { f.silu_backward(o, n, wide.data(), n, x.data(), n, 3, n); });
  run([&](S* o, S*) { f.scale_rows(o, n, x.data(), n, factors, 1, 3, n); });
  run([&](S* o, S*) { f.triangle(o, n, wide.data(), n, wide.data() + 3 * n, n / 2, 1, 3, n); });
  run([&](S* o, S*) { f.sub_mul(o, n, wide.data(), n, factors, wide.data() + 3 * n, n, 3, n); });
  run([&](S* o, S*) { f.store(o, n, wide.data(), n, 3, n); });
  run([&](S*, S*) { f.add_products(sum.data(), x.data(), n, factors, z.data(), n, 3, n); });
  f.silu(x.data(), n, x.data(), n, 3, n);  // in place
  all.insert(all.end(), x.begin(), x.end());
  return all;
}

template <class T>
void expect_stored_rows_have_the_same_bits() {
  using W = Wide<T>;
  const std::vector<Named> tables = available_tables();
  const auto row = [](int64_t n, uint64_t seed, double spread) {
    std::vector<Bits<T>> stored;
    for (const W value : random_row<W>(n, seed, spread)) stored.push_back(__builtin_bit_cast(Bits<T>, T(value)));
    return stored;
  };
  for (int64_t n = 0; n <= 150; ++n) {
    for (const double spread : {4.0, 130.0, 1000.0}) {
      const auto x = row(3 * n, 9, spread), y = row(3 * n, 10, 4), z = row(3 * n, 11, 4);
      const auto wide = random_row<W>(6 * n, 12);
      const std::vector<W> first = everything(row_table<T>(*tables[0].tables), x, y, z, wide);
      for (const Named& other : tables)
        EXPECT_TRUE(same_bits(everything(row_table<T>(*other.tables), x, y, z, wide), first))
            << other.name << " n " << n;
    }
  }
}

TEST(StoredRows, EveryInstructionSetGivesTheSameBits) {
  expect_stored_rows_have_the_same_bits<float>();
  expect_stored_rows_have_the_same_bits<double>();
  expect_stored_rows_have_the_same_bits<bf16>();
}

// Rows of bf16 are rows of f32 that are rounded once.
TEST(StoredRows, RoundBf16Once) {
  constexpr int64_t kCount = 77;
  std::vector<bf16> x, y, z, out(kCount), more(kCount);
  std::vector<float> wide_x, wide_y, wide_z, want(kCount), want_more(kCount);
  const auto fill = [](std::vector<bf16>& narrow, std::vector<float>& wide, uint64_t seed) {
    for (const float value : random_row<float>(3 * kCount, seed))
      narrow.emplace_back(value), wide.push_back(float(narrow.back()));
  };
  fill(x, wide_x, 1), fill(y, wide_y, 2), fill(z, wide_z, 3);
  const auto expect_rounded = [&](const char* what) {
    for (size_t i = 0; i < kCount; ++i) {
      EXPECT_EQ(out[i].bits, bf16(want[i]).bits) << what << " " << i;
      EXPECT_EQ(more[i].bits, bf16(want_more[i]).bits) << what << " " << i;
    }
  };
  const auto run = [&](const char* what, auto call) {
    std::copy_n(z.begin(), kCount, out.begin()), std::copy_n(y.begin(), kCount, more.begin());
    std::copy_n(wide_z.begin(), kCount, want.begin()), std::copy_n(wide_y.begin(), kCount, want_more.begin());
    call(out.data(), more.data(), x.data(), y.data(), z.data());
    call(want.data(), want_more.data(), wide_x.data(), wide_y.data(), wide_z.data());
    expect_rounded(what);
  };
  const int64_t taken[] = {2, 0, 2, 1};
  const int32_t chosen[] = {-1, 2, 1};
  const std::vector<float> factors = random_row<float>(kCount, 4);
  std::vector<float> sums(2 * kCount);
  run("scale", [&](auto* o, auto*, auto* a, auto*, auto*) { row_scale(o, a, 1.3f, kCount); });
  run("blend", [&](auto* o, auto*, auto* a, auto* b, auto*) { row_blend(o, a, 1.3f, b, -0.3f, kCount); });
  run("scale_mul", [&](auto* o, auto*, auto* a, auto* b, auto*) { row_scale_mul(o, a, 1.3f, b, kCount); });
  run("gate", [&](auto* o, auto*, auto* a, auto* b, auto* c) { row_gated_scale_mul(o, a, 1.3f, b, c, kCount); });
  run("blend_mul", [&](auto* o, auto*, auto* a, auto* b, auto* c) { row_blend_mul(o, a, b, 1.3f, c, -0.3f, kCount); });
  run("gather", [&](auto* o, auto*, auto* a, auto*, auto*) { row_gather(o, a, kCount, taken, 4, kCount); });
  run("combine",
      [&](auto* o, auto*, auto* a, auto*, auto*) { row_combine(o, a, kCount, chosen, factors.data(), 3, kCount); });
  run("swiglu", [&](auto* o, auto*, auto* a, auto* b, auto*) { row_swiglu(o, a, b, kCount); });
  run("swiglu_backward",
      [&](auto* o, auto* m, auto* a, auto* b, auto* c) { row_swiglu_backward(o, m, c, a, b, kCount); });
  run("turn", [&](auto* o, auto* m, auto*, auto*, auto*) { row_turn(o, m, factors.data(), factors.data(), kCount); });
  run("gated_backward", [&]<class T>(T* o, T* m, T* a, T* b, T* c) {
    row_gated_backward<T>({o, m, sums.data(), b, a, c, b, 0.9f, 0.2f}, kCount);
  });
  EXPECT_EQ(row_dot(x.data(), y.data(), kCount), row_dot(wide_x.data(), wide_y.data(), kCount));
  EXPECT_EQ(row_dot3(x.data(), y.data(), z.data(), kCount),
            row_dot3(wide_x.data(), wide_y.data(), wide_z.data(), kCount));
  EXPECT_EQ(row_gated_dot3(x.data(), y.data(), z.data(), x.data(), kCount),
            row_gated_dot3(wide_x.data(), wide_y.data(), wide_z.data(), wide_x.data(), kCount));
  std::fill(sums.begin(), sums.end(), 0.5f);
  row_add(sums.data(), x.data(), kCount), row_add(sums.data() + kCount, wide_x.data(), kCount);
  rows_add_products(sums.data(), x.data(), kCount, factors.data(), y.data(), kCount, 3, kCount);
  rows_add_products(sums.data() + kCount, wide_x.data(), kCount, factors.data(), wide_y.data(), kCount, 3, kCount);
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(sums[i], sums[kCount + i]);
}

// Rows of a block have the bits of one row after the other, each rounded once.
template <class T>
void expect_blocks_are_rows() {
  using W = Wide<T>;
  constexpr int64_t kRows = 5, kStride = 300, kWide = 310;
  const auto narrow = [](W x) {
    if constexpr (std::is_same_v<T, bf16>) return bf16(x);
    else return x;
  };
  for (const int64_t n : {1, 17, 64, 256, 290}) {
    std::vector<T> x, y(kRows * kStride), want(kRows * kStride);
    std::vector<W> wide, factors, in(kStride), out(kStride);
    for (int64_t i = 0; i < kRows * kStride; ++i) x.push_back(narrow(W(std::sin(double(i)) * 3)));
    for (int64_t i = 0; i < kRows * kWide; ++i) wide.push_back(W(std::cos(double(i))));
    for (int64_t i = 0; i < 700; ++i) factors.push_back(W(1 / (1 + double(i))));
    const auto expect = [&](const char* what, const auto& row_of) {
      std::fill(want.begin(), want.end(), narrow(W(9)));
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = 0; i < n; ++i) in[size_t(i)] = W(x[size_t(r * kStride + i)]);
        row_of(r, out.data(), in.data(), wide.data() + r * kWide);
        for (int64_t i = 0; i < n; ++i) want[size_t(r * kStride + i)] = narrow(out[size_t(i)]);
      }
      EXPECT_EQ(std::memcmp(y.data(), want.data(), y.size() * sizeof(T)), 0) << what << " " << n;
      std::fill(y.begin(), y.end(), narrow(W(9)));
    };
    std::fill(y.begin(), y.end(), narrow(W(9)));
    rows_silu(y.data(), kStride, x.data(), kStride, kRows, n);
    expect("silu", [&](int64_t, W* o, const W* i, const W*) { rows_silu(o, n, i, n, 1, n); });
    rows_silu_backward(y.data(), kStride, wide.data(), kWide, x.data(), kStride, kRows, n);
    expect("silu_backward", [&](int64_t, W* o, const W* i, const W* d) { rows_silu_backward(o, n, d, n, i, n, 1, n); });
    rows_scale(y.data(), kStride, x.data(), kStride, factors.data() + 10, -2, kRows, n);
    expect("scale", [&](int64_t r, W* o, const W* i, const W*) { row_scale(o, i, factors[size_t(10 - 2 * r)], n); });
    rows_store(y.data(), kStride, wide.data(), kWide, kRows, n);
    expect("store", [&](int64_t, W* o, const W*, const W* d) { std::copy_n(d, n, o); });
    rows_triangle(y.data(), kStride, wide.data(), kWide, factors.data() + 300, 3, 4, kRows, n);
    expect("triangle", [&](int64_t r, W* o, const W*, const W* d) {
      for (int64_t j = 0; j < n; ++j) o[j] = j <= 3 + 4 * r ? d[j] * factors[size_t(300 + j - 3 - 4 * r)] : W(0);
    });
  }
}

TEST(Blocks, AreRowsOneAfterTheOther) {
  expect_blocks_are_rows<float>();
  expect_blocks_are_rows<double>();
  expect_blocks_are_rows<bf16>();
}

}  // namespace
}  // namespace fulgur::cpu
