// A join, its norm and a product of it against a plain f64 oracle, and bit for bit against the operators that it stands
// for.
#include "ops/residual_norm_linear.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr size_t kBytes = size_t(8) << 20;
constexpr double kEps = 1e-5, kAlpha = 1.7, kBeta = 0.6;
constexpr int64_t kPlain = 0;  // choices of a row where the branch is no branch of experts

struct Shape {
  int64_t rows, width, out, k;
};
std::ostream& operator<<(std::ostream& to, const Shape& s) {
  return to << s.rows << " x " << s.width << " x " << s.out << ", " << s.k;
}

// For a GPU's one launch: widths of a part of a stage, of some, and of more than are there at once; fewer blocks than
// stages, and more. Then what it does not take: plain branches, more rows, wide rows, outputs and rows that do not
// begin at multiples of 16 bytes.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1024, 136, 2}, {8, 1024, 64, 2},  {3, 8, 8, 1},         {5, 72, 1032, 3},
                                         {8, 904, 72, 4},   {2, 1000, 200, 2}, {4, 264, 72, kPlain}, {9, 128, 72, 2},
                                         {40, 200, 64, 2},  {3, 1032, 72, 2},  {7, 17, 33, 2},       {2, 64, 30, 2},
                                         {1, 1, 1, 1}};
  return all;
}

// The same inputs, and memory of its own for all results.
ResidualNormLinear with_results(Bench& bench, ResidualNormLinear op) {
  const int64_t rows = op.join.carried.dim(0), width = op.join.carried.dim(1);
  const DType type = op.join.carried.dtype;
  op.y = bench.empty(type, {rows, op.w.out()});
  op.join.y = bench.empty(type, {rows, width}), op.join.sum = bench.empty(type, {rows, width});
  op.join.inverse_rms = bench.empty(wide(type), {rows});
  return op;
}

// Some choices have no place.
ResidualNormLinear random_call(Bench& bench, DType type, const Shape& s) {
  ResidualNormLinear op{.y = {},
                        .join = {.y = {},
                                 .sum = {},
                                 .carried = bench.random(type, {s.rows, s.width}, 1, 2, 0.3),
                                 .alpha = kAlpha,
                                 .branch = bench.random(type, {s.k == kPlain ? s.rows : s.rows * s.k, s.width}, 2),
                                 .beta = kBeta,
                                 .expert_weights = {},
                                 .place = {},
                                 .weight = bench.random(type, {s.width}, 3, 0.5, 1),
                                 .eps = kEps,
                                 .inverse_rms = {}},
                        .w = {bench.random(type, {s.out, s.width}, 4)}};
  if (s.k != kPlain) {
    std::vector<int64_t> places;
    for (int64_t i = 0; i < s.rows * s.k; ++i) places.push_back(i % 7 == 3 ? -1 : s.rows * s.k - 1 - i);
    op.join.place = bench.indices(DType::i32, places).split({s.rows, s.k});
    op.join.expert_weights = bench.random(wide(type), {s.rows, s.k}, 5, 0.5, 0.5);
  }
  return with_results(bench, op);
}

void apart(const ResidualNormLinear& op) {
  CaseStream stream({}, 2);
  residual_norm(stream, op.join), linear(stream, op.product());
}
void at_once(const ResidualNormLinear& op) {
  CaseStream stream({}, 2);
  residual_norm_linear(stream, op);
}

void expect_same(const ResidualNormLinear& op, const ResidualNormLinear& other) {
  EXPECT_TRUE(same_bits(op.y, other.y)) << "product";
  EXPECT_TRUE(same_bits(op.join.y, other.join.y)) << "norm";
  EXPECT_TRUE(!op.join.sum || same_bits(op.join.sum, other.join.sum)) << "sum";
  EXPECT_TRUE(!op.join.inverse_rms || same_bits(op.join.inverse_rms, other.join.inverse_rms)) << "inverse rms";
}

// The branch of a row, at a column, in f64.
double branch_at(const ResidualNorm& op, int64_t row, int64_t column) {
  const int64_t width = op.carried.dim(1);
  if (!op.place) return get(op.branch, row * width + column);
  double sum = 0;
  for (int64_t i = row * op.place.dim(1); i < (row + 1) * op.place.dim(1); ++i)
    if (const auto from = int64_t(get(op.place, i)); from >= 0)
      sum += get(op.expert_weights, i) * get(op.branch, from * width + column);
  return sum;
}

// Of sums kept in a type; of bf16 the norm was rounded before the product read it.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 2e-6 : 1e-2; }

TEST(ResidualNormLinear, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      const ResidualNormLinear op = random_call(bench, type, s);
      at_once(op);
      const Tensor sum = bench.empty(DType::f64, {s.rows, s.width}), norm = bench.empty(DType::f64, {s.rows, s.width}),
                   y = bench.zeros(DType::f64, {s.rows, s.out});
      for (int64_t row = 0; row < s.rows; ++row) {
        double squares = 0;
        for (int64_t c = 0; c < s.width; ++c) {
          const double joined = kAlpha * get(op.join.carried, row * s.width + c) + kBeta * branch_at(op.join, row, c);
          set(sum, row * s.width + c, joined), squares += joined * joined;
        }
        for (int64_t c = 0; c < s.width; ++c) {
          const int64_t at = row * s.width + c;
          set(norm, at, get(sum, at) / std::sqrt(squares / double(s.width) + kEps) * get(op.join.weight, c));
          for (int64_t o = 0; o < s.out; ++o)
            set(y, row * s.out + o, get(y, row * s.out + o) + get(norm, at) * get(op.w.values, o * s.width + c));
        }
      }
      EXPECT_LE(relative_gap(op.join.sum, sum), bound(type));
      EXPECT_LE(relative_gap(op.join.y, norm), bound(type));
      EXPECT_LE(relative_gap(op.y, y), bound(type));
    }
}

TEST(ResidualNormLinear, IsTheNormAndTheProduct) {
  std::vector<Shape> all = shapes();
  for (int64_t rows = 1; rows <= 9; ++rows) all.push_back({rows, 136, 72, 2});
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : all) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      const ResidualNormLinear op = random_call(bench, type, s), parts = with_results(bench, op);
      at_once(op), apart(parts);
      expect_same(op, parts);
    }
}

// What nobody keeps changes nothing, nor does a sum in the place of what was carried.
TEST(ResidualNormLinear, PlacesDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      const ResidualNormLinear all = random_call(bench, type, s);
      at_once(all);
      ResidualNormLinear few = with_results(bench, all);
      few.join.sum = few.join.inverse_rms = {};
      at_once(few);
      expect_same(few, all);
      ResidualNormLinear over = with_results(bench, all);
      over.join.sum = over.join.carried;
      at_once(over);
      expect_same(over, all);
    }
}

// As one launch and as two.
TEST(ResidualNormLinear, ARowHasTheBitsItHasAmongOthers) {
  Bench bench(kBytes);
  const ResidualNormLinear all = random_call(bench, DType::bf16, {40, 1024, 72, 2});
  at_once(all);
  for (const int64_t rows : {1, 5, 8}) {
    const auto part = [&](const Tensor& t) { return t.rows(20, 20 + rows); };
    ResidualNormLinear few = all;
    few.join.carried = part(all.join.carried), few.join.expert_weights = part(all.join.expert_weights);
    few.join.branch = bench.empty(DType::bf16, {2 * rows, 1024});
    std::vector<int64_t> places;
    for (int64_t i = 0; i < 2 * rows; ++i) {
      const auto from = int64_t(get(all.join.place, 40 + i));
      places.push_back(from < 0 ? -1 : i);
      for (int64_t c = 0; c < 1024; ++c)
        set(few.join.branch, i * 1024 + c, from < 0 ? 0 : get(all.join.branch, from * 1024 + c));
    }
    few.join.place = bench.indices(DType::i32, places).split({rows, 2});
    few = with_results(bench, few);
    at_once(few);
    EXPECT_TRUE(same_bits(few.y, part(all.y)) && same_bits(few.join.y, part(all.join.y))) << rows;
  }
}

TEST(ResidualNormLinear, RefusesOtherShapes) {
  Bench bench(kBytes);
  const ResidualNormLinear good = random_call(bench, DType::f32, {7, 17, 33, 2});
  ResidualNormLinear wrong = good;
  wrong.y = bench.empty(DType::f32, {7, 32});
  EXPECT_BROKEN(at_once(wrong), "y has the weight's outputs");
  wrong = random_call(bench, DType::bf16, {7, 17, 33, 2}), wrong.y = bench.empty(DType::f32, {7, 33});
  EXPECT_BROKEN(at_once(wrong), "y is of the run type");
  wrong = good, wrong.join.branch = bench.random(DType::f32, {13, 17}, 1);
  EXPECT_BROKEN(at_once(wrong), "the branch has the rows");
}

}  // namespace
}  // namespace fulgur
