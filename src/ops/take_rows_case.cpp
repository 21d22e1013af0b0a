// take_rows: rows come back exactly; its gradient clears dx and sums the taken rows in order.
#include "ops/take_rows.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr int64_t kRows = 9;

struct Pass {
  Bench bench{size_t(1) << 23};
  Tensor x, rows, dy, y, dx;

  Pass(DType type, int64_t taken, int64_t width) {
    std::vector<int64_t> indices;  // repeats itself, and skips row 1
    for (int64_t i = 0; i < taken; ++i) indices.push_back(int64_t(philox(6, uint64_t(i), 0)[0] % kRows));
    std::replace(indices.begin(), indices.end(), int64_t(1), int64_t(8));
    for (size_t i = 3; i < indices.size(); i += 5) indices[i] = -1;
    x = bench.random(type, {kRows, width}, 1), dy = bench.random(type, {taken, width}, 2);
    rows = bench.indices(DType::i32, indices);
    y = bench.empty(type, {taken, width}), dx = bench.empty(type, {kRows, width});
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    take_rows(stream, {.y = y, .x = x, .rows = rows});
    take_rows_backward(stream, {.dx = dx, .dy = dy, .rows = rows});
  }
};

TEST(TakeRows, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t taken : {1, 7, 65, 500})
      for (const int64_t width : {1, 17, 130, 299, 128, 2056}) {
        if (taken == 500 && width > 130) continue;  // enough for a row that many places take
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << taken << " x " << width);
        Pass p(type, taken, width);
        const Tensor y = p.bench.zeros(DType::f64, {taken, width}), dx = p.bench.zeros(DType::f64, {kRows, width});
        for (int64_t i = 0; i < taken * width; ++i) {
          if (get(p.rows, i / width) < 0) continue;
          const int64_t from = int64_t(get(p.rows, i / width)) * width + i % width;
          set(y, i, get(p.x, from));
          set(dx, from, get(dx, from) + get(p.dy, i));
        }
        p.run(1);
        EXPECT_EQ(largest_gap(p.y, y), 0);
        EXPECT_LE(relative_gap(p.dx, dx), type == DType::f64 ? 1e-15 : type == DType::f32 ? 1e-6 : 4e-3);
      }
}

TEST(TakeRows, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 7, 5);
  p.run(1);
  CaseStream stream;
  const auto loss = [&] {
    take_rows(stream, {.y = p.y, .x = p.x, .rows = p.rows});
    return inner(p.y, p.dy);
  };
  EXPECT_LE(gradient_gap(loss, p.x, p.dx), 1e-7);
}

TEST(TakeRows, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass one(type, 500, 131), three(type, 500, 131);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.y, three.y) && same_bits(one.dx, three.dx));
  }
}

TEST(TakeRows, Bf16IsF32RoundedOnce) {
  Pass p(DType::bf16, 65, 299);
  CaseStream stream;
  expect_rounded_once(p.bench, stream, take_rows_backward, TakeRowsBackward{.dx = p.dx, .dy = p.dy, .rows = p.rows});
}

TEST(TakeRows, SumsRowsInTheOrderOfTheIndices) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(1 << 16);
    CaseStream stream({}, 3);
    const Tensor dy = bench.empty(type, {3, 1}), dx = bench.empty(type, {1, 1});
    set(dy, 0, 1), set(dy, 1, 0x1p24), set(dy, 2, -0x1p24);  // 1 + 2^24 rounds the 1 away
    take_rows_backward(stream, {.dx = dx, .dy = dy, .rows = bench.indices(DType::i32, {0, 0, 0})});
    EXPECT_EQ(get(dx, 0), 0);
    set(dy, 0, 0x1p24), set(dy, 1, -0x1p24), set(dy, 2, 1);
    take_rows_backward(stream, {.dx = dx, .dy = dy, .rows = bench.indices(DType::i32, {0, 0, 0})});
    EXPECT_EQ(get(dx, 0), 1);
  }
}

TEST(TakeRows, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17);
  CaseStream stream;
  const Tensor wide = p.bench.empty(DType::i64, {7}), outside = p.bench.indices(DType::i32, {0, 0, 0, 0, 0, 0, -2});
  EXPECT_BROKEN(take_rows(stream, {.y = p.y.rows(0, 6), .x = p.x, .rows = p.rows}), "one row of x per index");
  EXPECT_BROKEN(take_rows(stream, {.y = p.y, .x = p.x, .rows = wide}), "indices are i32");
  EXPECT_BROKEN(take_rows(stream, {.y = p.y, .x = p.x, .rows = outside}), "every index is a row of x");
  EXPECT_BROKEN(take_rows_backward(stream, {.dx = p.dx, .dy = p.dy, .rows = outside}), "every index is a row of dx");
}

}  // namespace
}  // namespace fulgur
