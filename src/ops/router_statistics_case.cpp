// router_statistics against plain counting, and cut into calls.
#include "ops/router_statistics.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

struct Pass {
  Bench bench{size_t(1) << 20};
  int64_t rows, window;
  Tensor load, dropped, entropy_sum, choices, place, entropy;

  Pass(DType type, int64_t rows, int64_t window, int64_t experts, int64_t k, int64_t parts)
      : rows(rows), window(window) {
    load = bench.empty(DType::f64, {experts}), dropped = bench.empty(DType::f64, {parts});
    for (int64_t e = 0; e < experts; ++e) set(load, e, double(e));  // what earlier calls have counted
    for (int64_t part = 0; part < parts; ++part) set(dropped, part, double(part + 5));
    entropy_sum = bench.random(DType::f64, {1}, 1), entropy = bench.random(type, {rows}, 2);
    std::vector<int64_t> counts, places;
    for (int64_t i = 0; i < rows / window * experts; ++i) counts.push_back(int64_t(philox(3, uint64_t(i), 0)[0] % 50));
    for (int64_t i = 0; i < rows * k; ++i) places.push_back(philox(4, uint64_t(i), 0)[0] % 3 ? i : -1);
    choices = bench.indices(DType::i32, counts).split({rows / window, experts});
    place = bench.indices(DType::i32, places).split({rows, k});
  }
  void run(int64_t begin, int64_t end) const {
    CaseStream stream({}, 2);
    router_statistics(stream, {.load = load,
                               .dropped = dropped,
                               .entropy_sum = entropy_sum,
                               .choices = choices.rows(begin / window, end / window),
                               .place = place.rows(begin, end),
                               .entropy = entropy.rows(begin, end)});
  }
};

TEST(RouterStatistics, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const auto& [rows, window] : {std::pair{1, 1}, {21, 7}, {130, 65}, {128, 16}})
      for (const int64_t parts : {1, 8}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " rows, " << window << ", " << parts);
        Pass p(type, rows, window, 6, 2, parts);
        const Tensor load = p.bench.converted(p.load, DType::f64), dropped = p.bench.converted(p.dropped, DType::f64);
        double entropy = get(p.entropy_sum, 0);
        for (int64_t i = 0; i < p.choices.count(); ++i) set(load, i % 6, get(load, i % 6) + get(p.choices, i));
        for (int64_t row = 0; row < rows; ++row) {
          int64_t part = 0;  // the last part whose first position is not behind the row's
          while ((part + 1) * window <= row % window * parts) ++part;
          for (int64_t slot = 0; slot < 2; ++slot)
            if (get(p.place, row * 2 + slot) < 0) set(dropped, part, get(dropped, part) + 1);
          entropy += get(p.entropy, row);
        }
        p.run(0, rows);
        EXPECT_EQ(largest_gap(p.load, load), 0);
        EXPECT_EQ(largest_gap(p.dropped, dropped), 0);
        EXPECT_EQ(get(p.entropy_sum, 0), entropy);
      }
}

TEST(RouterStatistics, PiecesAccumulateToTheWhole) {
  const Pass whole(DType::f32, 64, 16, 6, 2, 8), pieces(DType::f32, 64, 16, 6, 2, 8);
  whole.run(0, 64);
  pieces.run(0, 16), pieces.run(16, 64);
  EXPECT_TRUE(same_bits(whole.load, pieces.load) && same_bits(whole.dropped, pieces.dropped));
  EXPECT_TRUE(same_bits(whole.entropy_sum, pieces.entropy_sum));
}

TEST(RouterStatistics, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 14, 7, 5, 2, 8);
  CaseStream stream;
  RouterStatistics op{.load = p.bench.zeros(DType::f64, {4}),
                      .dropped = p.dropped,
                      .entropy_sum = p.entropy_sum,
                      .choices = p.choices,
                      .place = p.place,
                      .entropy = p.entropy};
  EXPECT_BROKEN(router_statistics(stream, op), "one load per expert");
  op.load = p.load, op.place = p.place.rows(0, 13), op.entropy = p.entropy.rows(0, 13);
  EXPECT_BROKEN(router_statistics(stream, op), "windows fill the rows");
  op.place = p.place;
  EXPECT_BROKEN(router_statistics(stream, op), "k places per row");
}

}  // namespace
}  // namespace fulgur
