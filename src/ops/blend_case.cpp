// blend against an f64 oracle. It is linear, so it is its own gradient.
#include "ops/blend.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kAlpha = 3.5563, kBeta = -0.81;

TEST(Blend, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t width : {1, 17, 130}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width);
        Bench bench(size_t(1) << 20);
        CaseStream stream({}, 3);
        const Tensor a = bench.random(type, {rows, width}, 1), b = bench.random(type, {rows, width}, 2);
        const Tensor y = bench.empty(type, {rows, width}), alone = bench.empty(type, {rows, width});
        const Tensor want = bench.empty(DType::f64, {rows, width}), want_alone = bench.empty(DType::f64, {rows, width});
        for (int64_t i = 0; i < a.count(); ++i) {
          set(want, i, kAlpha * get(a, i) + kBeta * get(b, i));
          set(want_alone, i, kAlpha * get(a, i));
        }
        blend(stream, {.y = y, .a = a, .alpha = kAlpha, .b = b, .beta = kBeta});
        blend(stream, {.y = alone, .a = a, .alpha = kAlpha});
        const double bound = type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-6 : 4e-3;  // bf16: rounded once
        EXPECT_LE(relative_gap(y, want), bound);
        EXPECT_LE(relative_gap(alone, want_alone), bound);
      }
}

TEST(Blend, GradientEqualsCentralDifferences) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor a = bench.random(DType::f64, {3, 7}, 1), b = bench.random(DType::f64, {3, 7}, 2);
  const Tensor dy = bench.random(DType::f64, {3, 7}, 3), y = bench.empty(DType::f64, {3, 7});
  const Tensor da = bench.empty(DType::f64, {3, 7}), db = bench.empty(DType::f64, {3, 7});
  blend(stream, {.y = da, .a = dy, .alpha = kAlpha});
  blend(stream, {.y = db, .a = dy, .alpha = kBeta});
  const auto loss = [&] {
    blend(stream, {.y = y, .a = a, .alpha = kAlpha, .b = b, .beta = kBeta});
    return inner(y, dy);
  };
  EXPECT_LE(gradient_gap(loss, a, da), 1e-7);
  EXPECT_LE(gradient_gap(loss, b, db), 1e-7);
}

TEST(Blend, NeitherThreadsNorPlaceChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(size_t(1) << 20);
    CaseStream one, three({}, 3);
    const Tensor a = bench.random(type, {65, 130}, 1), b = bench.random(type, {65, 130}, 2);
    const Tensor y = bench.empty(type, {65, 130});
    blend(one, {.y = y, .a = a, .alpha = kAlpha, .b = b, .beta = kBeta});
    const Tensor copy_of_b = bench.converted(b, type);
    blend(three, {.y = copy_of_b, .a = a, .alpha = kAlpha, .b = copy_of_b, .beta = kBeta});
    blend(three, {.y = a, .a = a, .alpha = kAlpha, .b = b, .beta = kBeta});
    EXPECT_TRUE(same_bits(y, a) && same_bits(y, copy_of_b));
    const Tensor part = bench.random(type, {65, 13}, 3), scaled = bench.empty(type, {65, 13});
    const Tensor whole = bench.empty(type, {65, 13});
    blend(one, {.y = whole, .a = part, .alpha = kAlpha});
    blend(one, {.y = scaled.rows(1, 60), .a = part.rows(1, 60), .alpha = kAlpha});  // begins between vectors
    EXPECT_TRUE(same_bits(whole.rows(1, 60), scaled.rows(1, 60)));
  }
}

TEST(Blend, Bf16IsF32RoundedOnce) {
  Bench bench(size_t(1) << 20);
  CaseStream stream;
  const Tensor a = bench.random(DType::bf16, {65, 130}, 1), b = bench.random(DType::bf16, {65, 130}, 2);
  Blend op{.y = bench.empty(DType::bf16, {65, 130}), .a = a, .alpha = kAlpha};
  expect_rounded_once(bench, stream, blend, op);
  op.b = b, op.beta = kBeta;
  expect_rounded_once(bench, stream, blend, op);
}

TEST(Blend, RefusesOtherShapesAndTypes) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor a = bench.random(DType::f32, {7, 17}, 1), y = bench.empty(DType::f64, {7, 17});
  EXPECT_BROKEN(blend(stream, {.y = a.rows(0, 6), .a = a, .alpha = kAlpha}), "y matches a");
  EXPECT_BROKEN(blend(stream, {.y = y, .a = a, .alpha = kAlpha}), "y matches a");
  EXPECT_BROKEN(blend(stream, {.y = a, .a = a, .alpha = kAlpha, .b = y, .beta = kBeta}), "b matches a");
}

}  // namespace
}  // namespace fulgur
