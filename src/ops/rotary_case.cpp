// Rotary: the specification's numbers, angles far out, turning back, slices.
#include "ops/rotary.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

void turn(const Tensor& x, const Tensor& positions, int64_t rotary_dim, double theta, Turn way = Turn::forward,
          int threads = 1) {
  CaseStream stream({}, threads);
  rotary(stream, {.x = x, .positions = positions, .rotary_dim = rotary_dim, .theta = theta, .turn = way});
}

TEST(Rotary, GivesTheMicroVector) {  // spec/model.md 2.2
  const double want[] = {-1.413352521, 1.879118067, -2.828857482, 4.058191135, 5, 6, 7, 8};
  for (const DType type : {DType::f64, DType::f32}) {
    Bench bench(size_t(1) << 20);
    const Tensor x = bench.empty(type, {1, 1, 8});
    for (int64_t i = 0; i < 8; ++i) set(x, i, double(i + 1));
    turn(x, bench.indices(DType::i64, {3}), 4, 1e4);
    for (int64_t i = 0; i < 8; ++i) EXPECT_NEAR(get(x, i), want[i], type == DType::f64 ? 5e-10 : 5e-7) << i;
  }
}

// A head (1, 0) becomes the cosine and sine of position * theta^0 = position.
TEST(Rotary, KnowsSineAndCosineFarOut) {
  Bench bench(size_t(1) << 20);
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < 2000; ++i) positions.push_back(i), positions.push_back(i * 50021 + 7);
  positions.push_back(10239999), positions.push_back(99999989);
  for (const int64_t nearly_even : {355, 710, 103993, 208341, 1146408, 80143857}) positions.push_back(nearly_even);
  const int64_t rows = int64_t(positions.size());
  const Tensor x = bench.zeros(DType::f64, {rows, 1, 2});
  for (int64_t row = 0; row < rows; ++row) set(x, 2 * row, 1);
  turn(x, bench.indices(DType::i64, positions), 2, 1e7, Turn::forward, 2);
  for (int64_t row = 0; row < rows; ++row) {
    const long double angle = static_cast<long double>(positions[size_t(row)]);
    EXPECT_NEAR(get(x, 2 * row), double(std::cos(angle)), 4e-16) << positions[size_t(row)];
    EXPECT_NEAR(get(x, 2 * row + 1), double(std::sin(angle)), 4e-16) << positions[size_t(row)];
  }
}

TEST(Rotary, MatchesThePlainFormula) {
  constexpr int64_t kRows = 40, kHeads = 3, kWidth = 128, kTurned = 64;
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    Bench bench(size_t(1) << 20);
    std::vector<int64_t> positions;
    for (int64_t row = 0; row < kRows; ++row) positions.push_back(row * 263167);  // to 10.24 million
    const Tensor x = bench.random(type, {kRows, kHeads, kWidth}, 1), before = bench.converted(x, type);
    turn(x, bench.indices(DType::i64, positions), kTurned, 1e7);
    const Tensor want = bench.converted(before, DType::f64);
    for (int64_t r = 0; r < kRows * kHeads; ++r) {
      for (int64_t i = 0; i < kTurned / 2; ++i) {
        const double angle = double(positions[size_t(r / kHeads)]) * std::pow(1e7, -double(2 * i) / double(kTurned));
        const int64_t a = r * kWidth + i, b = a + kTurned / 2;
        set(want, a, get(before, a) * std::cos(angle) - get(before, b) * std::sin(angle));
        set(want, b, get(before, b) * std::cos(angle) + get(before, a) * std::sin(angle));
      }
    }
    if (type == DType::bf16) EXPECT_LE(relative_gap(x, want), 4e-3);  // rounded once
    else EXPECT_LT(largest_gap(x, want), type == DType::f64 ? 1e-15 : 2e-7);
  }
}

TEST(Rotary, BackIsTheTransposedTurn) {
  Bench bench(size_t(1) << 20);
  const Tensor positions = bench.indices(DType::i64, {0, 5, 1234567, 8});
  const Tensor x = bench.random(DType::f64, {4, 2, 16}, 2), y = bench.random(DType::f64, {4, 2, 16}, 3);
  const Tensor turned = bench.converted(x, DType::f64), gradient = bench.converted(y, DType::f64);
  turn(turned, positions, 8, 1e4);
  turn(gradient, positions, 8, 1e4, Turn::back);
  EXPECT_NEAR(inner(turned, y), inner(x, gradient), 1e-13);
  turn(turned, positions, 8, 1e4, Turn::back);
  EXPECT_LT(largest_gap(turned, x), 1e-14);
}

TEST(Rotary, Bf16IsF32RoundedOnce) {
  Bench bench(size_t(1) << 20);
  CaseStream stream;
  const Tensor x = bench.random(DType::bf16, {3, 2, 540}, 5);  // half of the turned dims is more than a piece
  for (const int64_t rotary_dim : {6, 540})
    for (const Turn way : {Turn::forward, Turn::back})
      expect_rounded_once(bench, stream, rotary,
                          Rotary{.x = x,
                                 .positions = bench.indices(DType::i64, {0, 77, 12345}),
                                 .rotary_dim = rotary_dim,
                                 .theta = 1e4,
                                 .turn = way});
}

// Heads of a slice turn as they would alone, the others stay, whatever the threads and the rows around.
TEST(Rotary, TurnsASliceOfHeads) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(size_t(1) << 20);
    std::vector<int64_t> positions;
    for (int64_t row = 0; row < 50; ++row) positions.push_back(3 * row);
    const Tensor at = bench.indices(DType::i64, positions);
    const Tensor qkv = bench.random(type, {50, 5, 12}, 4), before = bench.converted(qkv, type);
    turn(qkv.slice(1, 1, 4), at, 8, 1e4, Turn::forward, 2);
    EXPECT_TRUE(same_bits(qkv.slice(1, 0, 1), before.slice(1, 0, 1)));
    EXPECT_TRUE(same_bits(qkv.slice(1, 4, 5), before.slice(1, 4, 5)));
    EXPECT_TRUE(same_bits(qkv.slice(2, 8, 12), before.slice(2, 8, 12)));
    const Tensor alone = bench.converted(before.rows(33, 34).slice(1, 2, 3), type);
    turn(alone, bench.indices(DType::i64, {99}), 8, 1e4);
    EXPECT_TRUE(same_bits(alone, qkv.rows(33, 34).slice(1, 2, 3)));
    EXPECT_FALSE(same_bits(qkv.slice(1, 1, 4).slice(2, 0, 8), before.slice(1, 1, 4).slice(2, 0, 8)));
  }
}

TEST(RotaryDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Tensor x = bench.zeros(DType::f32, {2, 1, 8});
  EXPECT_BROKEN(turn(x, bench.indices(DType::i64, {0, 1}), 10, 1e4), "lie inside the head");
  EXPECT_BROKEN(turn(x, bench.indices(DType::i32, {0, 1}), 4, 1e4), "one position per row");
}

}  // namespace
}  // namespace fulgur
