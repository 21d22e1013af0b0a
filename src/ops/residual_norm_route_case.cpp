// A join, its norm and a router of it against a plain f64 oracle, and bit for bit against the operators that it stands
// for.
#include "ops/residual_norm_route.h"

#include <algorithm>
#include <numeric>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr size_t kBytes = size_t(8) << 20;
constexpr double kEps = 1e-5, kAlpha = 1.7, kBeta = 0.6;

struct Shape {
  int64_t rows, width, experts, k;
};
std::ostream& operator<<(std::ostream& to, const Shape& s) {
  return to << s.rows << " x " << s.width << ", " << s.k << " of " << s.experts;
}

// For a GPU's one launch: rows of one and of more thread blocks, widths of parts of a stage, of several and of all.
// Then what it does not take: wide rows, many rows and experts, rows that do not begin at multiples of 16 bytes.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1024, 16, 2}, {1, 8, 1, 1},    {7, 72, 5, 3},    {16, 128, 33, 2},
                                         {17, 904, 16, 2}, {33, 264, 8, 4}, {128, 200, 8, 2}, {8, 1032, 16, 2},
                                         {2, 2312, 16, 2}, {130, 64, 8, 2}, {3, 48, 70, 5},   {9, 30, 12, 2}};
  return all;
}

// The same inputs, and memory of its own for all results.
ResidualNormRoute with_results(Bench& bench, ResidualNormRoute op) {
  const int64_t rows = op.join.carried.dim(0), width = op.join.carried.dim(1), experts = op.route.router.out();
  const int64_t k = op.route.expert_ids.dim(1);
  const DType type = op.join.carried.dtype;
  op.join.y = bench.empty(type, {rows, width}), op.join.sum = bench.empty(type, {rows, width});
  op.join.inverse_rms = bench.empty(wide(type), {rows});
  op.route.sorted_rows = bench.empty(DType::i32, {rows * k}), op.route.place = bench.empty(DType::i32, {rows, k});
  op.route.expert_begin = bench.empty(DType::i32, {experts + 1});
  op.route.expert_ids = bench.empty(DType::i32, {rows, k}), op.route.weights = bench.empty(wide(type), {rows, k});
  op.route.logits = bench.empty(wide(type), {rows, experts});
  return op;
}

ResidualNormRoute random_call(Bench& bench, DType type, const Shape& s) {
  ResidualNormRoute op{.join = {.y = {},
                                .sum = {},
                                .carried = bench.random(type, {s.rows, s.width}, 1, 2, 0.3),
                                .alpha = kAlpha,
                                .branch = bench.random(type, {s.rows, s.width}, 2),
                                .beta = kBeta,
                                .expert_weights = {},
                                .place = {},
                                .weight = bench.random(type, {s.width}, 3, 0.5, 1),
                                .eps = kEps,
                                .inverse_rms = {}},
                       .route = {}};
  op.route.router = {bench.random(type, {s.experts, s.width}, 4)};
  op.route.expert_ids = bench.empty(DType::i32, {s.rows, s.k});
  return with_results(bench, op);
}

// The branch is one of experts: every choice has a place but one of a few rows.
void choose_branch(Bench& bench, ResidualNorm& op, int64_t k) {
  const int64_t rows = op.carried.dim(0), width = op.carried.dim(1);
  std::vector<int64_t> places;
  for (int64_t i = 0; i < rows * k; ++i) places.push_back(i % 7 == 3 ? -1 : rows * k - 1 - i);
  op.place = bench.indices(DType::i32, places).split({rows, k});
  op.expert_weights = bench.random(wide(op.carried.dtype), {rows, k}, 5, 0.5, 0.5);
  op.branch = bench.random(op.carried.dtype, {rows * k, width}, 6);
}

void apart(const ResidualNormRoute& op) {
  CaseStream stream({}, 2);
  residual_norm(stream, op.join), route_rows(stream, op.routing());
}
void at_once(const ResidualNormRoute& op) {
  CaseStream stream({}, 2);
  residual_norm_route(stream, op);
}

void expect_same_route(const RouteRows& op, const RouteRows& other) {
  EXPECT_TRUE(same_bits(op.logits, other.logits)) << "logits";
  EXPECT_TRUE(same_bits(op.expert_ids, other.expert_ids) && same_bits(op.weights, other.weights)) << "choices";
  EXPECT_TRUE(same_bits(op.sorted_rows, other.sorted_rows) && same_bits(op.place, other.place)) << "places";
  EXPECT_TRUE(same_bits(op.expert_begin, other.expert_begin)) << "ranges";
}
void expect_same(const ResidualNormRoute& op, const ResidualNormRoute& other) {
  EXPECT_TRUE(same_bits(op.join.y, other.join.y)) << "y";
  EXPECT_TRUE(!op.join.sum || same_bits(op.join.sum, other.join.sum)) << "sum";
  EXPECT_TRUE(!op.join.inverse_rms || same_bits(op.join.inverse_rms, other.join.inverse_rms)) << "inverse rms";
  expect_same_route(op.route, other.route);
}

// Of sums kept in a type; of bf16 the norm was rounded before the router read it.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 2e-6 : 8e-3; }

TEST(ResidualNormRoute, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      const ResidualNormRoute op = random_call(bench, type, s);
      at_once(op);
      const Tensor sum = bench.empty(DType::f64, {s.rows, s.width}), y = bench.empty(DType::f64, {s.rows, s.width}),
                   logits = bench.zeros(DType::f64, {s.rows, s.experts});
      int64_t wrong = 0;
      for (int64_t row = 0; row < s.rows; ++row) {
        double squares = 0;
        for (int64_t at = row * s.width; at < (row + 1) * s.width; ++at) {
          const double joined = kAlpha * get(op.join.carried, at) + kBeta * get(op.join.branch, at);
          set(sum, at, joined), squares += joined * joined;
        }
        for (int64_t c = 0; c < s.width; ++c) {
          const int64_t at = row * s.width + c;
          set(y, at, get(sum, at) / std::sqrt(squares / double(s.width) + kEps) * get(op.join.weight, c));
          for (int64_t e = 0; e < s.experts; ++e) {
            const int64_t logit = row * s.experts + e;
            set(logits, logit, get(logits, logit) + get(y, at) * get(op.route.router.values, e * s.width + c));
          }
        }
        // Those of its own logits, of which none is close to another by chance alone.
        std::vector<int64_t> order(size_t(s.experts));
        std::iota(order.begin(), order.end(), row * s.experts);
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return get(op.route.logits, a) > get(op.route.logits, b); });
        for (int64_t slot = 0; slot < s.k; ++slot)
          wrong += get(op.route.expert_ids, row * s.k + slot) != double(order[size_t(slot)] - row * s.experts);
      }
      EXPECT_LE(relative_gap(op.join.sum, sum), bound(type));
      EXPECT_LE(relative_gap(op.join.y, y), bound(type));
      EXPECT_LE(relative_gap(op.route.logits, logits), bound(type));
      EXPECT_EQ(wrong, 0);
    }
}

TEST(ResidualNormRoute, IsItsTwoOperators) {
  std::vector<Shape> all = shapes();
  for (int64_t rows = 1; rows <= 18; ++rows) all.push_back({rows, 136, 16, 2});
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : all)
      for (const bool of_experts : {false, true}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s << (of_experts ? ", of experts" : ""));
        Bench bench(kBytes);
        ResidualNormRoute op = random_call(bench, type, s);
        if (of_experts) choose_branch(bench, op.join, 2);
        const ResidualNormRoute parts = with_results(bench, op);
        at_once(op), apart(parts);
        expect_same(op, parts);
      }
}

// What nobody keeps changes nothing, nor do results in the place of what was read.
TEST(ResidualNormRoute, PlacesDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s);
      Bench bench(kBytes);
      const ResidualNormRoute all = random_call(bench, type, s);
      at_once(all);
      for (const bool y_over_branch : {false, true}) {
        Bench own(kBytes);
        ResidualNormRoute op = random_call(own, type, s);
        op.join.inverse_rms = {}, op.join.sum = y_over_branch ? op.join.carried : Tensor{};
        op.join.y = y_over_branch ? op.join.branch : op.join.carried;
        at_once(op);
        expect_same(op, all);
      }
      ResidualNormRoute op = random_call(bench, type, s);
      op.join.sum = op.join.branch;
      at_once(op);
      expect_same(op, all);
    }
}

TEST(ResidualNormRoute, KeepsWhatTrainingReads) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(kBytes);
    ResidualNormRoute op = random_call(bench, type, {33, 264, 8, 4}), parts = with_results(bench, op);
    for (RouteRows* one : {&op.route, &parts.route})
      one->probabilities = bench.empty(DType::f32, {33, 8}), one->log_sum_exp = bench.empty(DType::f32, {33}),
      one->entropy = bench.empty(DType::f32, {33});
    at_once(op), apart(parts);
    expect_same(op, parts);
    EXPECT_TRUE(same_bits(op.route.probabilities, parts.route.probabilities));
    EXPECT_TRUE(same_bits(op.route.log_sum_exp, parts.route.log_sum_exp));
    EXPECT_TRUE(same_bits(op.route.entropy, parts.route.entropy));
  }
}

// As one launch and as several: 130 rows are many.
TEST(ResidualNormRoute, RowsDoNotChangeEachOther) {
  Bench bench(kBytes);
  const ResidualNormRoute all = random_call(bench, DType::bf16, {130, 1024, 16, 2});
  at_once(all);
  for (const int64_t count : {1, 15, 128}) {
    const auto last = [&](const Tensor& t) { return t.rows(130 - count, 130); };
    ResidualNormRoute op = all;
    op.join.carried = last(all.join.carried), op.join.branch = last(all.join.branch);
    op = with_results(bench, op);
    at_once(op);
    EXPECT_TRUE(same_bits(op.join.y, last(all.join.y)) && same_bits(op.join.sum, last(all.join.sum))) << count;
    EXPECT_TRUE(same_bits(op.route.logits, last(all.route.logits))) << count;
    EXPECT_TRUE(same_bits(op.route.expert_ids, last(all.route.expert_ids))) << count;
  }
}

TEST(ResidualNormRoute, RefusesOtherShapes) {
  Bench bench(kBytes);
  const ResidualNormRoute good = random_call(bench, DType::f32, {7, 8, 5, 2});
  ResidualNormRoute wrong = good;
  wrong.route.x = good.join.y;
  EXPECT_BROKEN(at_once(wrong), "the router reads the norm");
  wrong = good, wrong.route.router = {bench.random(DType::f32, {5, 9}, 1)};
  EXPECT_BROKEN(at_once(wrong), "x has the weight's inputs");
  wrong = good, wrong.join.branch = bench.random(DType::f32, {7, 9}, 1);
  EXPECT_BROKEN(at_once(wrong), "the branch has the rows");
}

}  // namespace
}  // namespace fulgur
