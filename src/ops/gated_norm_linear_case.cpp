// A gated norm and the product of its rows against plain f64 loops, and bit for bit against the operators that it
// stands for.
#include "ops/gated_norm_linear.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kEps = 1e-6;
constexpr size_t kBytes = size_t(8) << 20;

struct Shape {
  int64_t rows, heads, head_width, out;
  int64_t in() const { return heads * head_width; }
};
std::ostream& operator<<(std::ostream& to, const Shape& s) {
  return to << s.rows << " x " << s.heads << " x " << s.head_width << " x " << s.out;
}

// All but the first two have few rows for a GPU's one launch, or a few more.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1, 1, 1},     {7, 3, 17, 33},   {1, 3, 8, 8},    {1, 16, 64, 72},
                                         {3, 5, 24, 136},  {8, 40, 24, 64},  {8, 70, 8, 72},  {9, 2, 64, 64},
                                         {32, 8, 128, 72}, {31, 5, 40, 200}, {33, 4, 32, 72}, {32, 9, 128, 8},
                                         {140, 4, 32, 72}};
  return all;
}

// The gate is a part of wider rows, between which NaN lies. squares are those of x.
GatedNormLinear random_call(Bench& bench, DType type, const Shape& s) {
  const int64_t gap = 8;
  GatedNormLinear op{.y = bench.empty(type, {s.rows, s.out}),
                     .gated = bench.empty(type, {s.rows, s.in()}),
                     .x = bench.random(type, {s.rows, s.in()}, 1, 2, 0.3),
                     .gate = bench.random(type, {s.rows, s.in() + gap}, 2, 3),
                     .weight = bench.random(type, {s.in()}, 3, 0.5, 1),
                     .squares = bench.zeros(wide(type), {s.heads, s.rows}),
                     .whole_width = s.in(),
                     .eps = kEps,
                     .inverse_rms = bench.empty(wide(type), {s.rows}),
                     .w = {bench.random(type, {s.out, s.in()}, 4)}};
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t i = 0; i < gap; ++i) set(op.gate, row * (s.in() + gap) + s.in() + i, NAN);
    for (int64_t c = 0; c < s.in(); ++c) {
      const int64_t at = c / s.head_width * s.rows + row;
      set(op.squares, at, get(op.squares, at) + std::pow(get(op.x, row * s.in() + c), 2));
    }
  }
  op.gate.shape[1] = s.in();
  return op;
}

// The same call, of which nothing but y is kept.
GatedNormLinear passing(Bench& bench, GatedNormLinear op) {
  op.y = bench.empty(op.x.dtype, {op.y.dim(0), op.y.dim(1)});
  op.gated = bench.empty(op.x.dtype, {op.x.dim(0), op.x.dim(1)});
  op.inverse_rms = {}, op.kept = false;
  return op;
}

double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 2e-6 : 5e-3; }

TEST(GatedNormLinear, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const GatedNormLinear op = random_call(bench, type, s), few = passing(bench, op);
      const Tensor gated = bench.empty(DType::f64, {s.rows, s.in()}), y = bench.zeros(DType::f64, {s.rows, s.out});
      for (int64_t row = 0; row < s.rows; ++row) {
        double squares = 0;
        for (int64_t c = 0; c < s.in(); ++c) squares += std::pow(get(op.x, row * s.in() + c), 2);
        for (int64_t c = 0; c < s.in(); ++c) {
          const int64_t at = row * s.in() + c;
          const double normed = get(op.x, at) / std::sqrt(squares / double(s.in()) + kEps) * get(op.weight, c);
          set(gated, at, normed / (1 + std::exp(-get(op.gate, at))));
          for (int64_t o = 0; o < s.out; ++o)
            set(y, row * s.out + o, get(y, row * s.out + o) + get(gated, at) * get(op.w.values, o * s.in() + c));
        }
      }
      gated_norm_linear(stream, op), gated_norm_linear(stream, few);
      EXPECT_LE(relative_gap(op.gated, gated), bound(type));
      EXPECT_LE(relative_gap(op.y, y), bound(type));
      EXPECT_LE(relative_gap(few.y, y), bound(type)) << "not kept";
    }
}

TEST(GatedNormLinear, IsTheNormAndTheProduct) {
  std::vector<Shape> all = shapes();
  for (int64_t rows = 1; rows <= 40; ++rows) all.push_back({rows, 3, 40, 72});
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : all) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const GatedNormLinear op = random_call(bench, type, s), few = passing(bench, op), apart = passing(bench, op);
      GatedRmsNorm norm = apart.norm();
      norm.inverse_rms = bench.empty(wide(type), {s.rows});
      gated_norm_linear(stream, op), gated_norm_linear(stream, few);
      gated_rms_norm(stream, norm), linear(stream, apart.product());
      EXPECT_TRUE(same_bits(op.gated, apart.gated) && same_bits(op.inverse_rms, norm.inverse_rms));
      EXPECT_TRUE(same_bits(op.y, apart.y));
      EXPECT_TRUE(same_bits(few.y, apart.y)) << "not kept";
    }
}

TEST(GatedNormLinear, ARowHasTheBitsItHasAmongOthers) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(kBytes);
    CaseStream stream({}, 2);
    const GatedNormLinear all = random_call(bench, type, {140, 5, 40, 72});
    gated_norm_linear(stream, all);
    for (const int64_t rows : {1, 8, 30}) {
      const auto part = [&](const Tensor& t) { return t.rows(50, 50 + rows); };
      GatedNormLinear few = all;
      few.x = part(all.x), few.gate = part(all.gate), few.squares = all.squares.slice(1, 50, 50 + rows);
      few.y = bench.empty(type, {rows, 72}), few.gated = bench.empty(type, {rows, 200});
      few.inverse_rms = {}, few.kept = false;
      gated_norm_linear(stream, few);
      EXPECT_TRUE(same_bits(few.y, part(all.y))) << name_of(type) << ' ' << rows;
    }
  }
}

TEST(GatedNormLinear, RefusesOtherShapes) {
  Bench bench(kBytes);
  CaseStream stream;
  const GatedNormLinear good = random_call(bench, DType::f32, {7, 3, 17, 33});
  GatedNormLinear wrong = good;
  wrong.gated = bench.empty(DType::f32, {7, 50});
  EXPECT_BROKEN(gated_norm_linear(stream, wrong), "y and gate match x");
  wrong = good, wrong.y = bench.empty(DType::f32, {7, 32});
  EXPECT_BROKEN(gated_norm_linear(stream, wrong), "y has the weight's outputs");
  wrong = good, wrong.kept = false;
  EXPECT_BROKEN(gated_norm_linear(stream, wrong), "the norm is kept where its inverse rms is");
}

}  // namespace
}  // namespace fulgur
