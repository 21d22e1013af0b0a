// router_z_loss against an f64 oracle, and its gradient against central differences through the logits.
#include "ops/router_z_loss.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kScale = 0.07;

struct Pass {
  Bench bench{size_t(1) << 20};
  int64_t rows, experts;
  Tensor logits, log_sum_exp, probabilities, loss, dlogits;

  Pass(DType type, int64_t rows, int64_t experts) : rows(rows), experts(experts) {
    logits = bench.random(DType::f64, {rows, experts}, 1, 3), probabilities = bench.empty(type, {rows, experts});
    log_sum_exp = bench.empty(type, {rows});
    loss = bench.random(DType::f64, {1}, 2), dlogits = bench.random(type, {rows, experts}, 3);
    route();
  }
  void route() const {
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t i = row * experts; i < (row + 1) * experts; ++i) sum += std::exp(get(logits, i));
      set(log_sum_exp, row, std::log(sum));
      for (int64_t i = row * experts; i < (row + 1) * experts; ++i)
        set(probabilities, i, std::exp(get(logits, i)) / sum);
    }
  }
  void run(int threads, int64_t begin, int64_t end) const {
    CaseStream stream({}, threads);
    router_z_loss(stream, {.loss = loss,
                           .dlogits = dlogits.rows(begin, end),
                           .log_sum_exp = log_sum_exp.rows(begin, end),
                           .probabilities = probabilities.rows(begin, end),
                           .scale = kScale});
  }
};

TEST(RouterZLoss, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t experts : {1, 17, 130}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << experts);
        Pass p(type, rows, experts);
        const Tensor loss = p.bench.converted(p.loss, DType::f64), dlogits = p.bench.converted(p.dlogits, DType::f64);
        for (int64_t i = 0; i < rows * experts; ++i) {
          const double log_sum_exp = get(p.log_sum_exp, i / experts);
          if (i % experts == 0) set(loss, 0, get(loss, 0) + kScale * log_sum_exp * log_sum_exp);
          set(dlogits, i, get(dlogits, i) + 2 * kScale * log_sum_exp * get(p.probabilities, i));
        }
        p.run(1, 0, rows);
        EXPECT_LE(relative_gap(p.loss, loss), 1e-14);
        EXPECT_LE(relative_gap(p.dlogits, dlogits), type == DType::f64 ? 1e-14 : 1e-6);
      }
}

TEST(RouterZLoss, GradientEqualsCentralDifferences) {
  Pass p(DType::f64, 7, 5);
  std::memset(p.dlogits.data, 0, size_t(p.dlogits.bytes()));
  p.run(1, 0, p.rows);
  const Tensor gradient = p.bench.converted(p.dlogits, DType::f64);
  const auto loss = [&] {
    p.route();
    set(p.loss, 0, 0);
    p.run(1, 0, p.rows);
    return get(p.loss, 0);
  };
  EXPECT_LE(gradient_gap(loss, p.logits, gradient), 1e-7);
}

TEST(RouterZLoss, NeitherThreadsNorHalvesChangeBits) {
  const Pass one(DType::f32, 260, 32), three(DType::f32, 260, 32);
  one.run(1, 0, 260);
  three.run(3, 0, 100), three.run(3, 100, 260);
  EXPECT_TRUE(same_bits(one.loss, three.loss) && same_bits(one.dlogits, three.dlogits));
}

TEST(RouterZLoss, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 14, 5);
  CaseStream stream;
  RouterZLoss op{.loss = p.bench.zeros(DType::f32, {1}),
                 .dlogits = p.dlogits,
                 .log_sum_exp = p.log_sum_exp,
                 .probabilities = p.probabilities,
                 .scale = kScale};
  EXPECT_BROKEN(router_z_loss(stream, op), "the loss is f64");
  op.loss = p.loss, op.log_sum_exp = p.log_sum_exp.rows(0, 13);
  EXPECT_BROKEN(router_z_loss(stream, op), "one log-sum-exp per row");
  op.log_sum_exp = p.log_sum_exp, op.dlogits = p.dlogits.rows(0, 13);
  EXPECT_BROKEN(router_z_loss(stream, op), "one gradient per probability");
}

}  // namespace
}  // namespace fulgur
