// sample against a plain oracle that sorts every row, frequencies against probabilities, and its edge cases.
#include "ops/sample.h"

#include <limits>
#include <map>
#include <numeric>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Settings {
  double temperature = 1;
  int64_t top_k = 0;
  double typical_p = 1, top_p = 1, min_p = 0;
};

struct Rows {
  Bench bench{size_t(1) << 22};
  Tensor tokens, logits, temperature, top_k, typical_p, top_p, min_p, keys, suppressed;

  Rows(int64_t rows, int64_t vocab) {
    tokens = bench.empty(DType::i32, {rows}), logits = bench.random(DType::f32, {rows, vocab}, 1, 3);
    temperature = bench.empty(DType::f32, {rows}), top_k = bench.empty(DType::i32, {rows});
    typical_p = bench.empty(DType::f32, {rows});
    top_p = bench.empty(DType::f32, {rows}), min_p = bench.empty(DType::f32, {rows});
    keys = bench.empty(DType::i64, {rows, 3});
    for (int64_t row = 0; row < rows; ++row)
      configure(row, {}), set(keys, 3 * row, 7), set(keys, 3 * row + 1, double(row % 3)),
          set(keys, 3 * row + 2, double(row));
  }
  void configure(int64_t row, Settings s) const {
    set(temperature, row, s.temperature), set(top_k, row, double(s.top_k));
    set(typical_p, row, s.typical_p), set(top_p, row, s.top_p), set(min_p, row, s.min_p);
  }
  void configure_all(Settings s) const {
    for (int64_t row = 0; row < tokens.count(); ++row) configure(row, s);
  }
  Sample operands(int64_t begin, int64_t end) const {
    return {.tokens = tokens.rows(begin, end),
            .logits = logits.rows(begin, end),
            .temperature = temperature.rows(begin, end),
            .top_k = top_k.rows(begin, end),
            .typical_p = typical_p.rows(begin, end),
            .top_p = top_p.rows(begin, end),
            .min_p = min_p.rows(begin, end),
            .keys = keys.rows(begin, end),
            .suppressed = suppressed};
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    sample(stream, operands(0, tokens.count()));
  }
  void repeat(const std::vector<double>& row) const {
    for (int64_t i = 0; i < logits.count(); ++i) set(logits, i, row[size_t(i) % row.size()]);
  }
};

// The kept tokens of a row, descending (by id where temperature alone decides), each with its probability among the
// kept.
std::vector<std::pair<int64_t, double>> kept_by_oracle(const Rows& rows, int64_t row) {
  const int64_t vocab = rows.logits.dim(1), top_k = int64_t(get(rows.top_k, row));
  std::vector<int64_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int64_t id) { return get(rows.logits, row * vocab + id); };
  if (rows.suppressed)
    for (int64_t i = 0; i < rows.suppressed.count(); ++i) std::erase(order, int64_t(get(rows.suppressed, i)));
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logit(a) > logit(b); });
  if (top_k > 0 && top_k < int64_t(order.size())) order.resize(size_t(top_k));
  double total = 0, sum = 0;
  const double greatest = logit(order[0]);
  const auto chance = [&](int64_t id) { return std::exp((logit(id) - greatest) / get(rows.temperature, row)); };
  for (const int64_t id : order) total += chance(id);
  const bool typical = get(rows.typical_p, row) < 1;
  if (typical) {
    double entropy = 0;
    for (const int64_t id : order) entropy -= chance(id) / total * std::log(chance(id) / total);
    const auto distance = [&](int64_t id) { return std::abs(-std::log(chance(id) / total) - entropy); };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return distance(a) < distance(b); });
    size_t count = 0;
    double reached = 0;
    while (count < order.size() && reached < get(rows.typical_p, row) * total) reached += chance(order[count++]);
    order.resize(count), total = reached;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logit(a) > logit(b); });
  }
  std::vector<std::pair<int64_t, double>> kept;
  for (const int64_t id : order) {
    if (get(rows.top_p, row) < 1 && sum >= get(rows.top_p, row) * total) break;
    if (chance(id) < get(rows.min_p, row) * chance(order[0])) break;
    kept.emplace_back(id, chance(id)), sum += chance(id);
  }
  for (auto& [id, p] : kept) p /= sum;
  const bool cut = top_k > 0 && int64_t(order.size()) == top_k;
  if (get(rows.top_p, row) >= 1 && get(rows.min_p, row) <= 0 && !cut && !typical) std::sort(kept.begin(), kept.end());
  return kept;
}

int64_t drawn_by_oracle(const Rows& rows, int64_t row) {
  const auto key = [&](int64_t i) { return uint64_t(get(rows.keys, 3 * row + i)); };
  const double u = unit_interval(philox(key(0), key(2), key(1))[0]);
  double sum = 0;
  const auto kept = kept_by_oracle(rows, row);
  for (const auto& [id, p] : kept)
    if ((sum += p) >= u) return id;
  return kept.back().first;
}

TEST(SampleTokens, EqualTheOracle) {
  Rows rows(480, 700);
  rows.suppressed = rows.bench.indices(DType::i32, {3, 0, 250, 3, 699});
  for (int64_t row = 0; row < 480; ++row)
    rows.configure(row, {.temperature = std::vector{0.3, 1.0, 4.0}[size_t(row % 3)],
                         .top_k = std::vector<int64_t>{0, 1, 5, 100, 10000}[size_t(row / 3 % 5)],
                         .typical_p = std::vector{1.0, 0.95, 0.2}[size_t(row / 7 % 3)],
                         .top_p = std::vector{1.0, 0.3, 0.9, 0.999}[size_t(row / 15 % 4)],
                         .min_p = std::vector{0.0, 0.02, 0.5, 1.0}[size_t(row / 60 % 4)]});
  rows.run(1);
  for (int64_t row = 0; row < 480; ++row) EXPECT_EQ(get(rows.tokens, row), double(drawn_by_oracle(rows, row))) << row;
}

// Rows that a GPU spreads over thread blocks; the longest does not fit into one block's shared memory.
TEST(SampleTokens, OfLongRowsEqualTheOracle) {
  for (const int64_t vocab : {1025, 3001, 60000}) {
    const std::vector<Settings> all = {{.temperature = 0.5}, {.temperature = 1}, {.temperature = 3, .top_k = 9},
                                       {.top_p = 0.9},       {.min_p = 0.1},     {.temperature = 0}};
    const int64_t rows_asked = vocab < 4000 ? int64_t(all.size()) : 2;
    Rows rows(rows_asked, vocab);
    rows.suppressed = rows.bench.indices(DType::i32, {3, 0, 999, 1024});
    for (int64_t row = 0; row < rows_asked; ++row) {
      rows.configure(row, all[size_t(row)]);
      set(rows.logits, row * vocab + 1000, 20 + (row == 1)), set(rows.logits, row * vocab + 1024, 40);
      set(rows.logits, row * vocab + 400, 20);
    }
    rows.run(1);
    for (int64_t row = 0; row < rows_asked; ++row) {
      const bool greedy = get(rows.temperature, row) == 0;
      EXPECT_EQ(get(rows.tokens, row), greedy ? 400 : double(drawn_by_oracle(rows, row))) << vocab << " " << row;
    }
  }
}

TEST(SampleTokens, FrequenciesFollowProbabilities) {
  const std::vector<double> logits = {0.5, -1, 2, 1.9, 0, 0, -3, 1, 0.2, -0.4};
  for (const Settings s :
       {Settings{.temperature = 0.7}, Settings{.top_k = 6}, Settings{.temperature = 1.5, .top_p = 0.8},
        Settings{.min_p = 0.1}, Settings{.typical_p = 0.9}}) {
    const int64_t draws = case_device->given() ? 1500 : 20000;  // an emulated GPU takes its time
    const Rows rows(draws, 10);
    rows.repeat(logits), rows.configure_all(s), rows.run(2);
    std::map<int64_t, double> seen;
    for (int64_t row = 0; row < draws; ++row) seen[int64_t(get(rows.tokens, row))] += 1;
    double distance = 0;  // chi-square: beyond 33.7 once in ten thousand, with nine degrees of freedom
    const auto kept = kept_by_oracle(rows, 0);
    for (const auto& [id, p] : kept)
      distance += std::pow(seen[id] - double(draws) * p, 2) / (double(draws) * p), seen.erase(id);
    EXPECT_LT(distance, 33.7);
    EXPECT_TRUE(seen.empty());  // nothing but what is kept
    EXPECT_GE(kept.size(), 4U);
  }
}

TEST(SampleTokens, ZeroTemperatureTakesTheLowestOfTheGreatest) {
  Rows rows(4, 6);
  rows.repeat({1, 4, 2, 4, 4, 0}), rows.configure_all({.temperature = 0});
  rows.run(1);
  for (int64_t row = 0; row < 4; ++row) EXPECT_EQ(get(rows.tokens, row), 1);
  rows.suppressed = rows.bench.indices(DType::i32, {1});
  rows.run(1);
  for (int64_t row = 0; row < 4; ++row) EXPECT_EQ(get(rows.tokens, row), 3);
}

// Ids that come up in 300 draws.
std::map<int64_t, int> drawn(const std::vector<double>& logits, Settings s) {
  const Rows rows(300, int64_t(logits.size()));
  rows.repeat(logits), rows.configure_all(s), rows.run(1);
  std::map<int64_t, int> seen;
  for (int64_t row = 0; row < 300; ++row) ++seen[int64_t(get(rows.tokens, row))];
  return seen;
}

TEST(SampleTokens, EdgesOfTheFilters) {
  const std::vector<double> even(8, 1.0), half = {0, std::log(2.0), -kInfinity, 0};
  EXPECT_EQ(drawn(even, {.top_k = 3}).rbegin()->first, 2);  // ties: the lower ids
  EXPECT_EQ(drawn(even, {.top_k = 3}).size(), 3U);
  EXPECT_EQ(drawn(even, {.top_k = 8}).size(), 8U);
  EXPECT_EQ(drawn(even, {.top_p = 0.25}).size(), 2U);  // reached exactly by two
  EXPECT_EQ(drawn(even, {.top_p = 0.2501}).size(), 3U);
  EXPECT_EQ(drawn(even, {.top_p = 1e-9}).size(), 1U);
  EXPECT_EQ(drawn(even, {.min_p = 1}).size(), 8U);
  EXPECT_EQ(drawn(half, {.min_p = 0.499}).size(), 3U);
  EXPECT_EQ(drawn(half, {.min_p = 0.501}).size(), 1U);
  EXPECT_EQ(drawn(half, {}).count(2), 0U);  // -infinity is never drawn
  EXPECT_EQ(drawn(half, {.temperature = 1e-6}).size(), 1U);
  EXPECT_EQ(drawn(even, {.typical_p = 0.25}).size(), 2U);  // equal surprise: the lower ids
  EXPECT_EQ(drawn({0, 0, std::log(6.0)}, {.typical_p = 0.7}).count(2), 1U);
  EXPECT_EQ(drawn({0, 0, std::log(2.0)}, {.typical_p = 0.4}).size(), 1U);
  EXPECT_EQ(drawn(half, {.typical_p = 0.999}).count(2), 0U);
  EXPECT_EQ(drawn({0, kInfinity, 5, kInfinity}, {}).size(), 2U);
}

TEST(SampleTokens, NaNCountsAsMinusInfinity) {
  for (const double temperature : {0.0, 1.0}) {
    EXPECT_EQ(drawn({NAN, 1, NAN, 1}, {.temperature = temperature}).size(), temperature == 0 ? 1U : 2U);
    EXPECT_EQ(drawn({NAN, 1, NAN, 1}, {.temperature = temperature}).begin()->first, 1);
    EXPECT_EQ(drawn({NAN, NAN, -kInfinity}, {.temperature = temperature}), (std::map<int64_t, int>{{0, 300}}));
    Rows rows(1, 3);
    rows.repeat({NAN, NAN, NAN}), rows.configure_all({.temperature = temperature});
    rows.suppressed = rows.bench.indices(DType::i32, {0, 1, 77, -1});
    rows.run(1);
    EXPECT_EQ(get(rows.tokens, 0), 2);
  }
}

TEST(SampleTokens, DependOnNeitherBatchNorThreads) {
  const Rows batch(65, 700), alone(65, 700);
  batch.configure_all({.temperature = 2, .top_p = 0.99}), alone.configure_all({.temperature = 2, .top_p = 0.99});
  batch.run(3);
  CaseStream stream;
  for (int64_t row = 64; row >= 0; --row) sample(stream, alone.operands(row, row + 1));
  EXPECT_TRUE(same_bits(batch.tokens, alone.tokens));
}

TEST(SampleTokens, OfLongRowsDependOnNoBatch) {
  const Rows batch(140, 1100), alone(140, 1100);
  for (const Rows* rows : {&batch, &alone}) {
    rows->configure_all({.temperature = 3});
    for (int64_t row = 0; row < 140; row += 10) rows->configure(row, {.temperature = 2, .top_k = 500});
  }
  batch.run(3);
  CaseStream stream;
  for (int64_t row = 139; row >= 0; row -= 3) {
    sample(stream, alone.operands(row, row + 1));
    EXPECT_EQ(get(batch.tokens, row), get(alone.tokens, row)) << row;
  }
}

TEST(SampleTokens, DependOnSeedSequenceAndPosition) {
  const Rows rows(64, 700), other(64, 700);
  rows.configure_all({.temperature = 9}), rows.run(1);
  for (int64_t part = 0; part < 3; ++part) {
    for (int64_t row = 0; row < 64; ++row) {
      other.configure(row, {.temperature = 9});
      for (int64_t i = 0; i < 3; ++i)
        set(other.keys, 3 * row + i, get(rows.keys, 3 * row + i) + (i == part ? 1000 : 0));
    }
    other.run(1);
    int same = 0;
    for (int64_t row = 0; row < 64; ++row) same += get(rows.tokens, row) == get(other.tokens, row);
    EXPECT_LT(same, 8);
  }
}

TEST(SampleTokens, RefuseOtherShapesAndTypes) {
  Rows rows(4, 6);
  CaseStream stream;
  Sample op = rows.operands(0, 4);
  op.keys = rows.keys.rows(0, 3);
  EXPECT_BROKEN(sample(stream, op), "a key is seed, sequence and position");
  op = rows.operands(0, 4), op.logits = rows.bench.zeros(DType::f64, {4, 6});
  EXPECT_BROKEN(sample(stream, op), "logits are f32");
  op = rows.operands(0, 4), op.suppressed = rows.bench.indices(DType::i32, {0, 1, 2, 3, 4, 5});
  EXPECT_BROKEN(sample(stream, op), "some token may be drawn");
  rows.configure(2, {.temperature = -1});
  EXPECT_BROKEN(rows.run(1), "temperature and top_k are not negative");
  rows.configure(2, {.top_p = 0});
  EXPECT_BROKEN(rows.run(1), "top_p is in");
  rows.configure(2, {.typical_p = 0});
  EXPECT_BROKEN(rows.run(1), "typical_p is in");
  rows.configure(2, {.min_p = 1.5});
  EXPECT_BROKEN(rows.run(1), "min_p is in");
}

}  // namespace
}  // namespace fulgur
