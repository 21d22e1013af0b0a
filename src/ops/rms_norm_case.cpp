// rms_norm against an f64 oracle, its gradient against central differences, and what it promises about order.
#include "ops/rms_norm.h"

#include "ops/blend.h"
#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kEps = 1e-5;

// Of sums kept in a type. What is stored as bf16 was rounded once: half a unit in the last of 8 bits.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-6 : 4e-3; }

// One forward and one backward pass on seeded numbers.
struct Pass {
  Bench bench{size_t(1) << 23};
  Tensor x, weight, dy, y, inverse, dx, dweight;

  Pass(DType type, int64_t rows, int64_t width) {
    x = bench.random(type, {rows, width}, 1, 2, 0.3), weight = bench.random(type, {width}, 2, 0.5, 1);
    dy = bench.random(type, {rows, width}, 3), dweight = bench.random(wide(type), {width}, 4);
    y = bench.empty(type, {rows, width}), dx = bench.empty(type, {rows, width}),
    inverse = bench.empty(wide(type), {rows});
  }
  RmsNorm operands() const { return {.y = y, .x = x, .weight = weight, .eps = kEps, .inverse_rms = inverse}; }
  RmsNormBackward back(int64_t begin, int64_t end) const {
    return {.dx = dx.rows(begin, end),
            .dweight = dweight,
            .dy = dy.rows(begin, end),
            .x = x.rows(begin, end),
            .weight = weight,
            .inverse_rms = inverse.rows(begin, end)};
  }
  void forward(Stream& stream) const { rms_norm(stream, operands()); }
  void backward(Stream& stream, int64_t begin, int64_t end) const { rms_norm_backward(stream, back(begin, end)); }
  void run(int threads) const {
    CaseStream stream({}, threads);
    forward(stream), backward(stream, 0, x.dim(0));
  }
};

struct Oracle {
  Tensor y, inverse, dx, dweight;
};

Oracle oracle_of(Pass& p) {
  const int64_t rows = p.x.dim(0), width = p.x.dim(1);
  Bench& bench = p.bench;
  Oracle o{bench.empty(DType::f64, {rows, width}), bench.empty(DType::f64, {rows}),
           bench.empty(DType::f64, {rows, width}), bench.converted(p.dweight, DType::f64)};
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0, along = 0;
    for (int64_t i = row * width; i < (row + 1) * width; ++i) squares += get(p.x, i) * get(p.x, i);
    const double r = 1 / std::sqrt(squares / double(width) + kEps);
    set(o.inverse, row, r);
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = row * width + c;
      along += get(p.dy, i) * get(p.weight, c) * get(p.x, i);
      set(o.y, i, get(p.x, i) * r * get(p.weight, c));
      set(o.dweight, c, get(o.dweight, c) + get(p.dy, i) * get(p.x, i) * r);
    }
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = row * width + c;
      set(o.dx, i, r * (get(p.dy, i) * get(p.weight, c) - get(p.x, i) * r * r * along / double(width)));
    }
  }
  return o;
}

TEST(RmsNorm, EqualsTheOracle) {
  // Whole vectors, rows of several blocks' chunks, and more than 512 pieces of 32 rows: paths of the CUDA twin.
  constexpr int64_t kShapes[][2] = {{1, 1},    {7, 1},    {65, 1},   {1, 17},   {7, 17},    {65, 17},  {1, 130},
                                    {7, 130},  {65, 130}, {1, 523},  {7, 523},  {65, 523},  {33, 512}, {3, 2056},
                                    {5, 4104}, {3, 6144}, {2, 8191}, {2, 9000}, {17001, 9}, {4100, 24}};
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const auto [rows, width] : kShapes) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width);
      Pass p(type, rows, width);
      const Oracle o = oracle_of(p);
      p.run(1);
      EXPECT_LE(relative_gap(p.y, o.y), bound(type));
      EXPECT_LE(relative_gap(p.inverse, o.inverse), bound(wide(type)));
      EXPECT_LE(relative_gap(p.dweight, o.dweight), (rows > 10000  ? 8
                                                     : rows > 1000 ? 3
                                                                   : 1) *
                                                        bound(wide(type)));  // chains of rows
      // At width 1 the two halves of dx cancel but for eps.
      EXPECT_LE(width == 1 ? largest_gap(p.dx, o.dx) : relative_gap(p.dx, o.dx),
                type == DType::bf16 ? bound(type) : 10 * bound(type));
    }
}

TEST(RmsNorm, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 3, 17);
  CaseStream stream;
  std::memset(p.dweight.data, 0, size_t(p.dweight.bytes()));
  p.run(1);
  const auto loss = [&] {
    p.forward(stream);
    return inner(p.y, p.dy);
  };
  EXPECT_LE(gradient_gap(loss, p.x, p.dx), 1e-7);
  EXPECT_LE(gradient_gap(loss, p.weight, p.dweight), 1e-7);
}

TEST(RmsNorm, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass one(type, 65, 523), three(type, 65, 523);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.y, three.y) && same_bits(one.inverse, three.inverse));
    EXPECT_TRUE(same_bits(one.dx, three.dx) && same_bits(one.dweight, three.dweight));
  }
}

TEST(RmsNorm, Bf16IsF32RoundedOnce) {
  for (const int64_t width : {130, 132, 2056}) {
    Pass p(DType::bf16, 65, width);
    CaseStream stream;
    expect_rounded_once(p.bench, stream, rms_norm, p.operands());
    expect_rounded_once(p.bench, stream, rms_norm_backward, p.back(0, 65));
  }
}

TEST(RmsNorm, PartsAccumulateToTheWhole) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t cut : {30, 32}) {  // CUDA adds pieces of 32 rows
      const Pass whole(type, 65, 130), parts(type, 65, 130);
      CaseStream stream({}, 2);
      whole.run(2);
      parts.forward(stream), parts.backward(stream, 0, cut), parts.backward(stream, cut, 65);
      EXPECT_TRUE(same_bits(whole.dx, parts.dx) && same_sums(whole.dweight, parts.dweight));
      EXPECT_TRUE(cut != 32 || same_bits(whole.dweight, parts.dweight));
    }
}

TEST(RmsNorm, GradientMayTakeThePlaceOfDy) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass apart(type, 7, 523);
    Pass inplace(type, 7, 523);
    apart.run(1);
    inplace.dx = inplace.dy;
    inplace.run(3);
    EXPECT_TRUE(same_bits(apart.dx, inplace.dx) && same_bits(apart.dweight, inplace.dweight));
  }
}

// As if blend had added it before; where it lies may be overwritten by dx.
TEST(RmsNorm, WhatIsCarriedJoinsDy) {
  constexpr double kAlpha = 1.7;
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t width : {17, 520, 2056}) {
      Pass apart(type, 70, width), joined(type, 70, width);
      const Tensor carried = joined.bench.random(type, {70, width}, 9);
      CaseStream stream({}, 2);
      apart.forward(stream), joined.forward(stream);
      RmsNormBackward op = joined.back(0, 70);
      op.carried = op.dx = carried, op.alpha = kAlpha;
      blend(stream, {.y = apart.dy, .a = apart.dy, .alpha = 1, .b = carried, .beta = kAlpha});
      apart.backward(stream, 0, 70);
      rms_norm_backward(stream, op);
      EXPECT_TRUE(same_bits(apart.dx, carried) && same_bits(apart.dweight, joined.dweight))
          << name_of(type) << ' ' << width;
    }
}

TEST(RmsNorm, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17);
  CaseStream stream;
  const Tensor narrow = p.bench.empty(DType::f32, {16}), doubles = p.bench.empty(DType::f64, {7, 17});
  EXPECT_BROKEN(rms_norm(stream, {.y = p.y, .x = p.x, .weight = narrow, .eps = kEps}), "one weight per column");
  EXPECT_BROKEN(rms_norm(stream, {.y = doubles, .x = p.x, .weight = p.weight, .eps = kEps}), "y matches x");
  RmsNormBackward back = p.back(0, 7);
  back.carried = doubles;
  EXPECT_BROKEN(rms_norm_backward(stream, back), "what is carried matches x");
}

}  // namespace
}  // namespace fulgur
