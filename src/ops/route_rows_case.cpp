// From rows to experts against a plain f64 oracle, and bit for bit against the operators that it stands for.
#include "ops/route_rows.h"

#include <array>
#include <numeric>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr size_t kBytes = size_t(4) << 20;

struct Shape {
  int64_t rows, width, experts, k;
};

// Rows of one and of more thread blocks, choices of one warp and of more, widths of one stage, of several and of more
// than are loaded at once; then what one launch does not take: many rows, experts, choices or slots, and rows that do
// not begin at multiples of 16 bytes.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1032, 16, 2},  {1, 8, 1, 1},      {16, 72, 5, 3},   {17, 128, 33, 2},
                                         {40, 264, 64, 4},  {100, 40, 16, 2},  {128, 200, 8, 2}, {8, 1024, 16, 2},
                                         {16, 1160, 64, 2}, {18, 2312, 24, 3}, {130, 64, 16, 2}, {3, 48, 70, 5},
                                         {33, 40, 16, 8},   {2, 16, 40, 33},   {9, 30, 12, 2}};
  return all;
}

RouteRows empty_call(Bench& bench, const RouteRows& like, int64_t k) {
  const int64_t rows = like.x.dim(0), experts = like.router.out();
  const DType type = wide(like.x.dtype);
  RouteRows op = like;
  op.sorted_rows = bench.empty(DType::i32, {rows * k}), op.place = bench.empty(DType::i32, {rows, k});
  op.expert_begin = bench.empty(DType::i32, {experts + 1}), op.expert_ids = bench.empty(DType::i32, {rows, k});
  op.weights = bench.empty(type, {rows, k}), op.logits = bench.empty(type, {rows, experts});
  return op;
}

RouteRows random_call(Bench& bench, DType type, const Shape& s) {
  RouteRows op{};
  op.x = bench.random(type, {s.rows, s.width}, 1), op.router = {bench.random(type, {s.experts, s.width}, 2)};
  return empty_call(bench, op, s.k);
}

void expect_same(const RouteRows& op, const RouteRows& other) {
  EXPECT_TRUE(same_bits(op.logits, other.logits)) << "logits";
  EXPECT_TRUE(same_bits(op.expert_ids, other.expert_ids) && same_bits(op.weights, other.weights)) << "choices";
  EXPECT_TRUE(same_bits(op.sorted_rows, other.sorted_rows) && same_bits(op.place, other.place)) << "places";
  EXPECT_TRUE(same_bits(op.expert_begin, other.expert_begin)) << "ranges";
}

// Experts' rows one expert after another, where nothing is dropped.
void expect_grouped(const RouteRows& op) {
  const int64_t k = op.place.dim(1), experts = op.router.out();
  int64_t at = 0, wrong = 0;
  for (int64_t e = 0; e < experts; ++e) {
    wrong += get(op.expert_begin, e) != double(at);
    for (int64_t i = 0; i < op.place.count(); ++i)
      if (get(op.expert_ids, i) == double(e))
        wrong += get(op.place, i) != double(at), wrong += get(op.sorted_rows, at++) != double(i / k);
  }
  EXPECT_EQ(wrong + (get(op.expert_begin, experts) != double(at)), 0);
}

// A GPU's matrix unit cuts off what it adds, so that errors grow with the width; 2.2e-6 is seen at 2,312.
double bound(DType type, int64_t width) {
  return type == DType::f64 ? 1e-12 : 2e-6 * std::max(1.0, double(width) / 1024);
}

TEST(RouteRows, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s.rows << " x " << s.width << ", " << s.k << " of "
                                        << s.experts);
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const RouteRows op = random_call(bench, type, s);
      route_rows(stream, op);
      const Tensor logits = bench.zeros(DType::f64, {s.rows, s.experts}), ids = bench.empty(DType::i32, {s.rows, s.k}),
                   weights = bench.empty(DType::f64, {s.rows, s.k});
      std::vector<int64_t> order(static_cast<size_t>(s.experts));
      for (int64_t row = 0; row < s.rows; ++row) {
        std::vector<double> logit(size_t(s.experts), 0.0);
        for (int64_t e = 0; e < s.experts; ++e) {
          for (int64_t i = 0; i < s.width; ++i)
            logit[size_t(e)] += get(op.x, row * s.width + i) * get(op.router.values, e * s.width + i);
          set(logits, row * s.experts + e, logit[size_t(e)]);
        }
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return logit[size_t(a)] > logit[size_t(b)]; });
        double sum = 0;
        for (int64_t slot = 0; slot < s.k; ++slot) sum += std::exp(logit[size_t(order[size_t(slot)])]);
        for (int64_t slot = 0; slot < s.k; ++slot) {
          set(ids, row * s.k + slot, double(order[size_t(slot)]));
          set(weights, row * s.k + slot, std::exp(logit[size_t(order[size_t(slot)])]) / sum);
        }
      }
      EXPECT_LE(relative_gap(op.logits, logits), bound(type, s.width));
      EXPECT_TRUE(same_bits(op.expert_ids, ids));
      EXPECT_LE(largest_gap(op.weights, weights), 10 * bound(type, s.width));
      expect_grouped(op);
    }
}

TEST(RouteRows, IsItsThreeOperators) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes())
      for (const auto& [windows, capacity] : {std::pair{0, 0}, {1, 0}, {1, 3}, {2, 2}}) {
        if (windows > 0 && (s.rows % windows != 0 || type == DType::f32)) continue;
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s.rows << " x " << s.width << ", " << s.k << " of "
                                          << s.experts << ", " << windows << " windows of " << capacity);
        Bench bench(kBytes);
        CaseStream stream({}, 2);
        RouteRows op = random_call(bench, type, s);
        op.window = windows > 0 ? s.rows / windows : 0, op.capacity = capacity;
        RouteRows apart = empty_call(bench, op, s.k);
        if (windows > 0)
          for (RouteRows* one : {&op, &apart}) one->choices = bench.empty(DType::i32, {windows, s.experts});
        route_rows(stream, op);
        linear(stream, apart.product()), route_experts(stream, apart.choice()), group_rows(stream, apart.grouping());
        expect_same(op, apart);
        EXPECT_TRUE(windows == 0 || same_bits(op.choices, apart.choices));
      }
}

TEST(RouteRows, KeepsWhatTrainingReads) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(kBytes);
    CaseStream stream({}, 2);
    RouteRows op = random_call(bench, type, shapes()[4]);
    RouteRows apart = empty_call(bench, op, shapes()[4].k);
    for (RouteRows* one : {&op, &apart})
      one->probabilities = bench.empty(DType::f32, {40, 64}), one->log_sum_exp = bench.empty(DType::f32, {40}),
      one->entropy = bench.empty(DType::f32, {40});
    route_rows(stream, op);
    linear(stream, apart.product()), route_experts(stream, apart.choice()), group_rows(stream, apart.grouping());
    expect_same(op, apart);
    EXPECT_TRUE(same_bits(op.probabilities, apart.probabilities) && same_bits(op.log_sum_exp, apart.log_sum_exp));
    EXPECT_TRUE(same_bits(op.entropy, apart.entropy));
  }
}

// As one launch and as three: 130 rows are many.
TEST(RouteRows, RowsDoNotChangeEachOther) {
  Bench bench(kBytes);
  CaseStream stream({}, 2);
  const RouteRows all = random_call(bench, DType::bf16, {130, 1096, 16, 2});
  route_rows(stream, all);
  for (const int64_t count : {1, 15, 128}) {
    RouteRows op = all;
    op.x = all.x.rows(130 - count, 130);
    op = empty_call(bench, op, 2);
    route_rows(stream, op);
    EXPECT_TRUE(same_bits(op.logits, all.logits.rows(130 - count, 130))) << count;
    EXPECT_TRUE(same_bits(op.weights, all.weights.rows(130 - count, 130))) << count;
    EXPECT_TRUE(same_bits(op.expert_ids, all.expert_ids.rows(130 - count, 130))) << count;
  }
}

// Experts 1, 33 and 36 have the same weights, the greatest; expert 2 has a NaN, which no row of 20 chooses.
TEST(RouteRows, TiesGoToTheLowerIndexAndNaNIsLast) {
  Bench bench(kBytes);
  CaseStream stream;
  const RouteRows op = random_call(bench, DType::bf16, {20, 64, 40, 3});
  for (int64_t i = 0; i < op.x.count(); ++i) set(op.x, i, std::abs(get(op.x, i)) + 0.25);
  for (const int64_t e : {1, 33, 36})
    for (int64_t i = 0; i < 64; ++i) set(op.router.values, e * 64 + i, 2);
  set(op.router.values, 2 * 64 + 5, NAN);
  route_rows(stream, op);
  for (int64_t row = 0; row < 20; ++row) {
    EXPECT_TRUE(std::isnan(get(op.logits, row * 40 + 2)));
    for (int64_t slot = 0; slot < 3; ++slot) {
      EXPECT_EQ(get(op.expert_ids, row * 3 + slot), (std::array{1, 33, 36})[size_t(slot)]) << row;
      EXPECT_EQ(get(op.weights, row * 3 + slot), get(op.weights, 0)) << row;
    }
  }
  expect_grouped(op);
}

TEST(RouteRows, RefusesOtherShapes) {
  Bench bench(kBytes);
  CaseStream stream;
  const RouteRows good = random_call(bench, DType::f32, {7, 8, 5, 2});
  RouteRows wrong = good;
  wrong.expert_begin = bench.empty(DType::i32, {7});
  EXPECT_BROKEN(route_rows(stream, wrong), "one range per expert");
  wrong = good, wrong.router = {bench.random(DType::f32, {6, 8}, 1)};
  EXPECT_BROKEN(route_rows(stream, wrong), "y has the weight's outputs");
  wrong = good, wrong.sorted_rows = bench.empty(DType::i32, {13});
  EXPECT_BROKEN(route_rows(stream, wrong), "one row per choice");
}

}  // namespace
}  // namespace fulgur
