// load_balance against an f64 oracle, and its gradient against central differences through a softmax.
#include "ops/load_balance.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kScale = 0.37;
constexpr int64_t kChoices = 2;

struct Pass {
  Bench bench{size_t(1) << 20};
  int64_t rows, experts, window;
  Tensor logits, probabilities, ids, choices, loss, dlogits;

  Pass(DType type, int64_t rows, int64_t experts, int64_t window, uint64_t seed = 1)
      : rows(rows), experts(experts), window(window) {
    logits = bench.random(DType::f64, {rows, experts}, seed, 2), probabilities = bench.empty(type, {rows, experts});
    std::vector<int64_t> chosen, counts(size_t(rows / window * experts));
    for (int64_t i = 0; i < rows * kChoices; ++i) {  // not balanced
      const double u = unit_interval(philox(2, uint64_t(i), seed)[0]);
      chosen.push_back(int64_t(u * u * double(experts)));
      ++counts[size_t(i / kChoices / window * experts + chosen.back())];
    }
    ids = bench.indices(DType::i32, chosen).split({rows, kChoices});
    choices = bench.indices(DType::i32, counts).split({1, rows / window, experts});
    loss = bench.random(DType::f64, {1}, 3), dlogits = bench.random(type, {rows, experts}, 4);
    softmax();
  }
  void softmax() const {
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t i = row * experts; i < (row + 1) * experts; ++i) sum += std::exp(get(logits, i));
      for (int64_t i = row * experts; i < (row + 1) * experts; ++i)
        set(probabilities, i, std::exp(get(logits, i)) / sum);
    }
  }
  void run(int threads, int64_t begin, int64_t end) const {
    CaseStream stream({}, threads);
    load_balance(stream, {.loss = loss,
                          .dlogits = dlogits.rows(begin, end),
                          .choices = choices.slice(1, begin / window, end / window),
                          .probabilities = probabilities.rows(begin, end),
                          .scale = kScale});
  }
};

struct Oracle {
  Tensor loss, dlogits;
};

Oracle oracle_of(Pass& p) {
  Oracle o{p.bench.converted(p.loss, DType::f64), p.bench.converted(p.dlogits, DType::f64)};
  const double n = double(p.window), experts = double(p.experts);
  for (int64_t first = 0; first < p.rows; first += p.window) {
    std::vector<double> f(size_t(p.experts), 0.0), m(size_t(p.experts), 0.0);
    for (int64_t row = first; row < first + p.window; ++row) {
      for (int64_t i = row * kChoices; i < (row + 1) * kChoices; ++i) f[size_t(get(p.ids, i))] += 1 / n;
      for (int64_t e = 0; e < p.experts; ++e) m[size_t(e)] += get(p.probabilities, row * p.experts + e) / n;
    }
    for (size_t e = 0; e < f.size(); ++e) set(o.loss, 0, get(o.loss, 0) + kScale / experts * f[e] * m[e]);
    for (int64_t row = first; row < first + p.window; ++row) {
      double mean = 0;
      for (int64_t e = 0; e < p.experts; ++e) mean += f[size_t(e)] * get(p.probabilities, row * p.experts + e);
      for (int64_t e = 0; e < p.experts; ++e) {
        const int64_t i = row * p.experts + e;
        set(o.dlogits, i, get(o.dlogits, i) + kScale / experts / n * get(p.probabilities, i) * (f[size_t(e)] - mean));
      }
    }
  }
  return o;
}

TEST(LoadBalance, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t window : {1, 7, 65})
      for (const int64_t experts : {1, 17, 130}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << " 2 x " << window << " x " << experts);
        Pass p(type, 2 * window, experts, window);
        std::memset(p.dlogits.data, 0, size_t(p.dlogits.bytes()));
        const Oracle o = oracle_of(p);
        p.run(1, 0, p.rows);
        const double bound = type == DType::f64 ? 1e-12 : 2e-6;
        EXPECT_LE(largest_gap(p.loss, o.loss), type == DType::f64 ? 1e-14 : 1e-8);
        // With one expert there is nothing to balance.
        EXPECT_LE(experts == 1 ? largest_gap(p.dlogits, o.dlogits) : relative_gap(p.dlogits, o.dlogits), bound);
      }
}

TEST(LoadBalance, GradientEqualsCentralDifferences) {
  Pass p(DType::f64, 14, 5, 7);
  std::memset(p.dlogits.data, 0, size_t(p.dlogits.bytes()));
  p.run(1, 0, p.rows);
  const Tensor gradient = p.bench.converted(p.dlogits, DType::f64);
  const auto loss = [&] {
    p.softmax();
    set(p.loss, 0, 0);
    p.run(1, 0, p.rows);
    return get(p.loss, 0);
  };
  EXPECT_LE(gradient_gap(loss, p.logits, gradient), 1e-7);
}

// transformers' load_balancing_loss_func on the rows of several layers, one after the other, as one window.
TEST(LoadBalance, FormTransformersIsTheSumOverLayers) {
  constexpr int64_t kLayers = 3, kRows = 14, kExperts = 5;
  constexpr double kCoefficient = 0.02;
  Pass layers[] = {{DType::f64, kRows, kExperts, kRows, 5},
                   {DType::f64, kRows, kExperts, kRows, 6},
                   {DType::f64, kRows, kExperts, kRows, 7}};
  CaseStream stream;
  Bench bench(1 << 16);
  const Tensor loss = bench.empty(DType::f64, {1}), choices = bench.empty(DType::i32, {kLayers, 1, kExperts});
  for (int64_t layer = 0; layer < kLayers; ++layer) copy(stream, choices.at(layer), layers[layer].choices.at(0));
  const auto sum_over_layers = [&] {
    clear(stream, loss);
    for (const Pass& p : layers)
      clear(stream, p.dlogits), load_balance(stream, {.loss = loss,
                                                      .dlogits = p.dlogits,
                                                      .choices = choices,
                                                      .probabilities = p.probabilities,
                                                      .scale = kCoefficient * kExperts * kExperts / kLayers});
    return get(loss, 0);
  };
  const auto concatenated = [&] {
    double sum = 0;
    for (int64_t e = 0; e < kExperts; ++e) {
      double f = 0, m = 0;
      for (const Pass& p : layers) {
        p.softmax();
        for (int64_t i = 0; i < kRows * kChoices; ++i) f += get(p.ids, i) == double(e);
        for (int64_t row = 0; row < kRows; ++row) m += get(p.probabilities, row * kExperts + e);
      }
      sum += f / (kRows * kLayers) * (m / (kRows * kLayers));
    }
    return kCoefficient * kExperts * sum;
  };
  EXPECT_NEAR(sum_over_layers(), concatenated(), 1e-15);
  for (Pass& p : layers)
    EXPECT_LE(gradient_gap(concatenated, p.logits, p.bench.converted(p.dlogits, DType::f64)), 1e-7);
}

TEST(LoadBalance, ThreadsDoNotChangeBits) {
  const Pass one(DType::f32, 260, 32, 65), three(DType::f32, 260, 32, 65);
  one.run(1, 0, 260), three.run(3, 0, 260);
  EXPECT_TRUE(same_bits(one.loss, three.loss) && same_bits(one.dlogits, three.dlogits));
}

TEST(LoadBalance, HalvesAccumulateToTheWhole) {
  for (const DType type : {DType::f64, DType::f32}) {
    const Pass whole(type, 260, 17, 65), halves(type, 260, 17, 65);
    whole.run(2, 0, 260);
    halves.run(2, 0, 65), halves.run(2, 65, 260);
    EXPECT_TRUE(same_bits(whole.loss, halves.loss) && same_bits(whole.dlogits, halves.dlogits));
  }
}

TEST(LoadBalance, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 14, 5, 7);
  CaseStream stream;
  LoadBalance op{.loss = p.loss,
                 .dlogits = p.dlogits,
                 .choices = p.bench.empty(DType::i32, {1, 4, 5}),
                 .probabilities = p.probabilities,
                 .scale = kScale};
  EXPECT_BROKEN(load_balance(stream, op), "windows fill the rows");
  op.choices = p.choices, op.loss = p.bench.zeros(DType::f32, {1});
  EXPECT_BROKEN(load_balance(stream, op), "the loss is f64");
  op.loss = p.loss, op.choices = p.choices.at(0);
  EXPECT_BROKEN(load_balance(stream, op), "one count per layer, window and expert");
}

}  // namespace
}  // namespace fulgur
