// route_experts against an f64 oracle that sorts, its gradient against central differences, ties and NaN.
#include "ops/route_experts.h"

#include <limits>
#include <numeric>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

struct Pass {
  Bench bench{size_t(1) << 20};
  Tensor logits, ids, weights, probabilities, log_sum_exp, entropy, dweights, dlogits;

  Pass(DType type, int64_t rows, int64_t experts, int64_t k) {
    logits = bench.random(type, {rows, experts}, 1, 4), dweights = bench.random(type, {rows, k}, 2);
    ids = bench.empty(DType::i32, {rows, k}), weights = bench.empty(type, {rows, k});
    probabilities = bench.empty(type, {rows, experts}), dlogits = bench.empty(type, {rows, experts});
    log_sum_exp = bench.empty(type, {rows}), entropy = bench.empty(type, {rows});
  }
  void forward(Stream& stream) const {
    route_experts(stream, {.expert_ids = ids,
                           .weights = weights,
                           .logits = logits,
                           .probabilities = probabilities,
                           .log_sum_exp = log_sum_exp,
                           .entropy = entropy});
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    forward(stream);
    route_experts_backward(stream, {.dlogits = dlogits, .dweights = dweights, .expert_ids = ids, .weights = weights});
  }
};

struct Oracle {
  Tensor ids, weights, probabilities, log_sum_exp, entropy, dlogits;
};

Oracle oracle_of(Pass& p) {
  const int64_t rows = p.logits.dim(0), experts = p.logits.dim(1), k = p.ids.dim(1);
  Oracle o{p.bench.empty(DType::i32, {rows, k}),       p.bench.empty(DType::f64, {rows, k}),
           p.bench.empty(DType::f64, {rows, experts}), p.bench.empty(DType::f64, {rows}),
           p.bench.zeros(DType::f64, {rows}),          p.bench.zeros(DType::f64, {rows, experts})};
  for (int64_t row = 0; row < rows; ++row) {
    const auto logit = [&](int64_t e) { return get(p.logits, row * experts + e); };
    std::vector<int64_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logit(a) > logit(b); });
    double all = 0, chosen = 0, mean = 0;
    for (int64_t e = 0; e < experts; ++e) all += std::exp(logit(e));
    for (int64_t e = 0; e < experts; ++e) {
      const double probability = std::exp(logit(e)) / all;
      set(o.probabilities, row * experts + e, probability);
      set(o.entropy, row, get(o.entropy, row) - probability * std::log(probability));
    }
    set(o.log_sum_exp, row, std::log(all));
    for (int64_t slot = 0; slot < k; ++slot) chosen += std::exp(logit(order[size_t(slot)])) / all;
    for (int64_t slot = 0; slot < k; ++slot) {
      const double weight = std::exp(logit(order[size_t(slot)])) / all / chosen;
      set(o.ids, row * k + slot, double(order[size_t(slot)]));
      set(o.weights, row * k + slot, weight);
      mean += weight * get(p.dweights, row * k + slot);
    }
    for (int64_t slot = 0; slot < k; ++slot)
      set(o.dlogits, row * experts + order[size_t(slot)],
          get(o.weights, row * k + slot) * (get(p.dweights, row * k + slot) - mean));
  }
  return o;
}

TEST(RouteExperts, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t experts : {1, 17, 130})
        for (const int64_t k : {1, 2, 17}) {
          if (k > experts) continue;
          SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << experts << ", " << k);
          Pass p(type, rows, experts, k);
          const Oracle o = oracle_of(p);
          p.run(1);
          const double bound = type == DType::f64 ? 1e-12 : 1e-6;
          EXPECT_TRUE(same_bits(p.ids, o.ids));
          EXPECT_LE(largest_gap(p.weights, o.weights), bound);
          EXPECT_LE(relative_gap(p.probabilities, o.probabilities), bound);
          EXPECT_LE(relative_gap(p.log_sum_exp, o.log_sum_exp), bound);
          EXPECT_LE(relative_gap(p.entropy, o.entropy), bound);
          EXPECT_LE(relative_gap(p.dlogits, o.dlogits), k == 1 ? 0 : bound);
        }
}

TEST(RouteExperts, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 7, 9, 3);
  p.run(1);
  CaseStream stream;
  const auto loss = [&] {
    p.forward(stream);
    return inner(p.weights, p.dweights);
  };
  EXPECT_LE(gradient_gap(loss, p.logits, p.dlogits), 1e-7);
}

TEST(RouteExperts, ThreadsDoNotChangeBits) {
  const Pass one(DType::f32, 265, 32, 2), three(DType::f32, 265, 32, 2);
  one.run(1), three.run(3);
  EXPECT_TRUE(same_bits(one.ids, three.ids) && same_bits(one.weights, three.weights));
  EXPECT_TRUE(same_bits(one.probabilities, three.probabilities) && same_bits(one.dlogits, three.dlogits));
  EXPECT_TRUE(same_bits(one.log_sum_exp, three.log_sum_exp) && same_bits(one.entropy, three.entropy));
}

TEST(RouteExperts, TiesGoToTheLowerIndex) {
  const Pass p(DType::f32, 2, 5, 3);
  CaseStream stream;
  const double logits[] = {1, 3, 1, 3, 1, -0.0, 0, -0.0, 0, 0}, ids[] = {1, 3, 0, 0, 1, 2};
  for (int64_t i = 0; i < 10; ++i) set(p.logits, i, logits[i]);
  p.forward(stream);
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(get(p.ids, i), ids[i]);
  EXPECT_EQ(get(p.weights, 0), get(p.weights, 1));
}

TEST(RouteExperts, NaNLeavesDistinctExperts) {
  for (const double other : {0.0, double(NAN), -std::numeric_limits<double>::infinity()}) {
    const Pass p(DType::f32, 1, 4, 3);
    CaseStream stream;
    for (int64_t e = 0; e < 4; ++e) set(p.logits, e, e == 0 ? NAN : other);
    p.forward(stream);
    int seen[4] = {};
    for (int64_t slot = 0; slot < 3; ++slot) {
      const int id = int(get(p.ids, slot));
      ASSERT_TRUE(id >= 0 && id < 4);
      EXPECT_EQ(seen[id]++, 0);
    }
    EXPECT_EQ(seen[0], other == 0 ? 0 : 1);
  }
}

TEST(RouteExperts, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 5, 2);
  CaseStream stream;
  const Tensor many = p.bench.empty(DType::i32, {7, 6}), doubles = p.bench.empty(DType::f64, {7, 2});
  const Tensor outside = p.bench.empty(DType::i32, {7, 2});  // -1
  EXPECT_BROKEN(route_experts(stream, {.expert_ids = many, .weights = p.weights, .logits = p.logits}), "at most all");
  EXPECT_BROKEN(route_experts(stream, {.expert_ids = p.ids, .weights = doubles, .logits = p.logits}),
                "one weight per choice");
  EXPECT_BROKEN(route_experts(stream, {.expert_ids = p.ids,
                                       .weights = p.weights,
                                       .logits = p.logits,
                                       .probabilities = p.probabilities,
                                       .log_sum_exp = {},
                                       .entropy = p.entropy}),
                "a training call wants probabilities");
  EXPECT_BROKEN(
      route_experts_backward(
          stream, {.dlogits = p.dlogits, .dweights = p.dweights, .expert_ids = outside, .weights = p.weights}),
      "every choice is one of the experts");
}

}  // namespace
}  // namespace fulgur
