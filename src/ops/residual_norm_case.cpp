// residual_norm against an f64 oracle, and against the steps that it stands for, each rounded. Its gradients are those
// of rms_norm_backward and combine_experts_backward.
#include "ops/residual_norm.h"

#include "ops/blend.h"
#include "ops/case.h"
#include "ops/rms_norm.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kEps = 1e-5, kAlpha = 1.7, kBeta = 0.6;
constexpr int64_t kPlain = 0;  // choices of a row where the branch is no branch of experts

// Of sums kept in a type. What is stored as bf16 was rounded three times: half a unit in the last of 8 bits each, of
// numbers that the norm leaves as large.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-6 : 8e-3; }

struct Pass {
  Bench bench{size_t(1) << 24};
  ResidualNorm op{};
  Tensor sum;

  Pass(DType type, int64_t rows, int64_t width, int64_t k) {
    op = {.y = bench.empty(type, {rows, width}),
          .sum = {},
          .carried = bench.random(type, {rows, width}, 1, 2, 0.3),
          .alpha = kAlpha,
          .branch = bench.random(type, {k == kPlain ? rows : rows * k, width}, 2),
          .beta = kBeta,
          .expert_weights = {},
          .place = {},
          .weight = bench.random(type, {width}, 3, 0.5, 1),
          .eps = kEps,
          .inverse_rms = bench.empty(wide(type), {rows})};
    op.sum = sum = bench.empty(type, {rows, width});
    if (k != kPlain) add_choices(type, rows, k);
  }
  void run(int threads = 1) const {
    CaseStream stream({}, threads);
    residual_norm(stream, op);
  }

 private:
  void add_choices(DType type, int64_t rows, int64_t k) {
    op.expert_weights = bench.random(wide(type), {rows, k}, 4, 0.5, 0.5);
    std::vector<int64_t> places;  // slot by slot, so that a row's choices lie apart
    for (int64_t i = 0; i < rows * k; ++i) {
      const bool dropped = rows > 1 && (i % 5 == 2 || i / k == 4);  // of row 4 every choice
      places.push_back(dropped ? -1 : i % k * rows + (i / k * 5 + 3) % rows);
    }
    op.place = bench.indices(DType::i32, places).split({rows, k});
  }
};

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

struct Oracle {
  Tensor y, sum, inverse;
};
Oracle oracle_of(Pass& p) {
  const int64_t rows = p.op.y.dim(0), width = p.op.y.dim(1);
  const Oracle o{p.bench.empty(DType::f64, {rows, width}), p.bench.empty(DType::f64, {rows, width}),
                 p.bench.empty(DType::f64, {rows})};
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double sum = kAlpha * get(p.op.carried, row * width + c) + kBeta * branch_at(p.op, row, c);
      set(o.sum, row * width + c, sum), squares += sum * sum;
    }
    const double inverse = 1 / std::sqrt(squares / double(width) + kEps);
    set(o.inverse, row, inverse);
    for (int64_t c = 0; c < width; ++c)
      set(o.y, row * width + c, get(o.sum, row * width + c) * inverse * get(p.op.weight, c));
  }
  return o;
}

// body(type, rows, width, k) over rows of whole and broken vectors, of several blocks' chunks, and choices of all
// kinds.
template <class Body>
void for_shapes(const Body& body) {
  constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 1},    {7, 17},   {66, 130}, {7, 523},  {33, 512}, {9, 1024},
                                                     {300, 40}, {3, 2056}, {6, 8191}, {2, 9000}, {6, 8200}};
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const auto& [rows, width] : kShapes)
      for (const int64_t k : {kPlain, int64_t(1), int64_t(2), int64_t(3)}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width << ", " << k);
        body(type, rows, width, k);
      }
}

TEST(ResidualNorm, EqualsTheOracle) {
  for_shapes([](DType type, int64_t rows, int64_t width, int64_t k) {
    Pass p(type, rows, width, k);
    const Oracle o = oracle_of(p);
    p.run();
    EXPECT_LE(relative_gap(p.op.y, o.y), bound(type));
    EXPECT_LE(relative_gap(p.op.sum, o.sum), bound(type));
    EXPECT_LE(relative_gap(p.op.inverse_rms, o.inverse), bound(type));
  });
}

// One choice of weight 1 in every row's own place is a plain branch; rms_norm of the sum is the norm.
TEST(ResidualNorm, HasTheBitsOfItsSteps) {
  for_shapes([](DType type, int64_t rows, int64_t width, int64_t k) {
    if (k > 1) return;
    Pass p(type, rows, width, kPlain);
    p.run();
    CaseStream stream;
    const Tensor sum = p.bench.empty(type, {rows, width}), y = p.bench.empty(type, {rows, width});
    blend(stream, {.y = sum, .a = p.op.carried, .alpha = kAlpha, .b = p.op.branch, .beta = kBeta});
    rms_norm(stream, {.y = y, .x = sum, .weight = p.op.weight, .eps = kEps});
    EXPECT_TRUE(same_bits(sum, p.op.sum) && same_bits(y, p.op.y));
    if (k == kPlain) return;
    std::vector<int64_t> own(size_t(rows), 0);
    for (int64_t i = 0; i < rows; ++i) own[size_t(i)] = i;
    p.op.place = p.bench.indices(DType::i32, own).split({rows, 1});
    p.op.expert_weights = p.bench.empty(wide(type), {rows, 1});
    for (int64_t i = 0; i < rows; ++i) set(p.op.expert_weights, i, 1);
    p.run();
    EXPECT_TRUE(same_bits(sum, p.op.sum) && same_bits(y, p.op.y));
  });
}

// Choices are added up in f32, each product rounded, and their sum once more to the type, as a branch that is stored.
TEST(ResidualNorm, RoundsWhatItCombines) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{7, 17}, {66, 136}, {300, 40}, {3, 2056}}) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width);
      const Pass choices(type, rows, width, 3);
      Pass plain(type, rows, width, kPlain);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t c = 0; c < width; ++c) {
          float sum = 0;
          for (int64_t i = 3 * row; i < 3 * row + 3; ++i)
            if (const auto from = int64_t(get(choices.op.place, i)); from >= 0)
              sum += float(get(choices.op.expert_weights, i)) * float(get(choices.op.branch, from * width + c));
          set(plain.op.branch, row * width + c, sum);
        }
      choices.run(), plain.run();
      EXPECT_TRUE(same_bits(choices.sum, plain.sum) && same_bits(choices.op.y, plain.op.y));
    }
}

// What nobody keeps changes nothing, nor do results in the place of what was read.
TEST(ResidualNorm, PlacesDoNotChangeBits) {
  for_shapes([](DType type, int64_t rows, int64_t width, int64_t k) {
    const Pass all(type, rows, width, k);
    all.run();
    Pass few(type, rows, width, k);
    few.op.sum = {}, few.op.inverse_rms = {};
    few.run(3);
    EXPECT_TRUE(same_bits(all.op.y, few.op.y));
    Pass over_carried(type, rows, width, k);
    over_carried.op.sum = over_carried.op.carried;
    over_carried.run();
    EXPECT_TRUE(same_bits(all.op.y, over_carried.op.y) && same_bits(all.sum, over_carried.op.sum));
    if (k != kPlain) return;
    Pass over_branch(type, rows, width, k), no_sum(type, rows, width, k);
    over_branch.op.y = over_branch.op.branch;
    over_branch.run();
    EXPECT_TRUE(same_bits(all.op.y, over_branch.op.y));
    no_sum.op.sum = {}, no_sum.op.y = no_sum.op.carried;
    no_sum.run();
    EXPECT_TRUE(same_bits(all.op.y, no_sum.op.y));
  });
}

TEST(ResidualNorm, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t k : {kPlain, int64_t(2)}) {
      const Pass one(type, 66, 523, k), three(type, 66, 523, k);
      one.run(1), three.run(3);
      EXPECT_TRUE(same_bits(one.op.y, three.op.y) && same_bits(one.op.sum, three.op.sum));
      EXPECT_TRUE(same_bits(one.op.inverse_rms, three.op.inverse_rms));
    }
}

TEST(ResidualNorm, AddsSlotsInOrder) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Pass p(type, 1, 1, 3);
    for (int64_t slot = 0; slot < 3; ++slot) set(p.op.expert_weights, slot, 1), set(p.op.place, slot, double(2 - slot));
    set(p.op.branch, 0, 1), set(p.op.branch, 1, -0x1p24), set(p.op.branch, 2, 0x1p24);
    p.op.alpha = 0, p.op.beta = 1;
    p.run();
    EXPECT_EQ(get(p.op.sum, 0), 1);  // 0 in any order that adds the 1 to 2^24
  }
}

TEST(ResidualNorm, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17, 2);
  const auto with = [&](const auto& change) {
    Pass broken(DType::f32, 7, 17, 2);
    change(broken.op);
    broken.run();
  };
  const Tensor doubles = p.bench.empty(DType::f64, {7, 17}),
               outside = p.bench.indices(DType::i32, std::vector<int64_t>(14, -2)).split({7, 2});
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.y = doubles; }), "y matches what is carried");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.sum = doubles; }), "sum matches what is carried");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.branch = op.branch.rows(0, 13); }), "k for each");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.expert_weights = {}; }), "choices have weights and places");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.y = op.sum; }), "results lie apart");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.y = op.carried; }), "results lie apart");
  EXPECT_BROKEN(with([&](ResidualNorm& op) { op.place = outside; }), "every choice has its place");
}

}  // namespace
}  // namespace fulgur
