// swiglu against an f64 oracle, and its gradient against central differences.
#include "ops/swiglu.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

// Of sums kept in a type. What is stored as bf16 was rounded once: half a unit in the last of 8 bits.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-6 : 4e-3; }

struct Pass {
  Bench bench{size_t(1) << 20};
  Tensor gate, up, dy, y, dgate, dup;

  Pass(DType type, int64_t rows, int64_t width) {
    gate = bench.random(type, {rows, width}, 1, 6), up = bench.random(type, {rows, width}, 2);
    dy = bench.random(type, {rows, width}, 3), y = bench.empty(type, {rows, width});
    dgate = bench.empty(type, {rows, width}), dup = bench.empty(type, {rows, width});
  }
  Swiglu operands() const { return {.y = y, .gate = gate, .up = up}; }
  SwigluBackward back() const { return {.dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up}; }
  void run(int threads) const {
    CaseStream stream({}, threads);
    swiglu(stream, operands()), swiglu_backward(stream, back());
  }
};

TEST(Swiglu, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t width : {1, 17, 130}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width);
        Pass p(type, rows, width);
        const Tensor y = p.bench.empty(DType::f64, {rows, width});
        const Tensor dgate = p.bench.empty(DType::f64, {rows, width}), dup = p.bench.empty(DType::f64, {rows, width});
        for (int64_t i = 0; i < y.count(); ++i) {
          const double g = get(p.gate, i), s = 1 / (1 + std::exp(-g));
          set(y, i, g * s * get(p.up, i));
          set(dup, i, get(p.dy, i) * g * s);
          set(dgate, i, get(p.dy, i) * get(p.up, i) * (s + g * s * (1 - s)));
        }
        p.run(1);
        EXPECT_LE(relative_gap(p.y, y), bound(type));
        EXPECT_LE(relative_gap(p.dgate, dgate), bound(type));
        EXPECT_LE(relative_gap(p.dup, dup), bound(type));
      }
}

TEST(Swiglu, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 3, 17);
  p.run(1);
  CaseStream stream;
  const auto loss = [&] {
    swiglu(stream, {.y = p.y, .gate = p.gate, .up = p.up});
    return inner(p.y, p.dy);
  };
  EXPECT_LE(gradient_gap(loss, p.gate, p.dgate), 1e-7);
  EXPECT_LE(gradient_gap(loss, p.up, p.dup), 1e-7);
}

TEST(Swiglu, NeitherThreadsNorPlaceChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Pass one(type, 65, 130), three(type, 65, 130);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.y, three.y) && same_bits(one.dgate, three.dgate) && same_bits(one.dup, three.dup));
    CaseStream stream;
    const Tensor part = one.bench.empty(type, {65, 13});
    const auto from = [](const Tensor& t) {  // elements 13 to 13 * 60, between vectors
      Tensor dense = t;
      dense.shape[1] = dense.stride[0] = 13;
      return dense.rows(1, 60);
    };
    swiglu(stream, {.y = from(part), .gate = from(one.gate), .up = from(one.up)});
    EXPECT_TRUE(same_bits(from(part), from(one.y)));
    swiglu(stream, {.y = three.gate, .gate = three.gate, .up = three.up});
    swiglu(stream, {.y = one.up, .gate = one.gate, .up = one.up});
    EXPECT_TRUE(same_bits(one.y, three.gate) && same_bits(one.y, one.up));
  }
}

// Of one matrix; dy lies where dgate is to.
TEST(Swiglu, GradientsMayBeColumns) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t width : {17, 72}) {
      Pass p(type, 33, width);
      p.run(1);
      const Tensor both = p.bench.empty(type, {33, 2 * width + 5}), dgate = both.slice(1, 0, width),
                   dup = both.slice(1, width, 2 * width), rest = both.slice(1, 2 * width, 2 * width + 5);
      for (int64_t i = 0; i < dgate.count(); ++i) set(dgate, i, get(p.dy, i));
      CaseStream stream({}, 2);
      swiglu_backward(stream, {.dgate = dgate, .dup = dup, .dy = dgate, .gate = p.gate, .up = p.up});
      EXPECT_TRUE(same_bits(dgate, p.dgate) && same_bits(dup, p.dup)) << name_of(type) << ' ' << width;
      EXPECT_TRUE(same_bits(rest, p.bench.empty(type, {33, 5})));
    }
}

TEST(Swiglu, Bf16IsF32RoundedOnce) {
  Pass p(DType::bf16, 65, 130);
  CaseStream stream;
  expect_rounded_once(p.bench, stream, swiglu, p.operands());
  expect_rounded_once(p.bench, stream, swiglu_backward, p.back());
}

TEST(Swiglu, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17);
  CaseStream stream;
  const Tensor doubles = p.bench.empty(DType::f64, {7, 17});
  EXPECT_BROKEN(swiglu(stream, {.y = p.y.rows(0, 6), .gate = p.gate, .up = p.up}), "y and up match gate");
  EXPECT_BROKEN(swiglu(stream, {.y = doubles, .gate = p.gate, .up = p.up}), "y and up match gate");
  EXPECT_BROKEN(
      swiglu_backward(stream, {.dgate = p.dgate.rows(0, 6), .dup = p.dup, .dy = p.dy, .gate = p.gate, .up = p.up}),
      "gradients match gate");
}

}  // namespace
}  // namespace fulgur
