// group_rows against an oracle that walks the choices once per expert.
#include "ops/group_rows.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

// Every row chooses k different experts.
Tensor choices(Bench& bench, int64_t rows, int64_t experts, int64_t k) {
  std::vector<int64_t> ids;
  for (int64_t row = 0; row < rows; ++row) {
    const auto draw = philox(3, uint64_t(row), 0);
    const int64_t first = int64_t(draw[0] % uint64_t(experts)), step = int64_t(draw[1] % 2) ? 1 : experts - 1;
    for (int64_t slot = 0; slot < k; ++slot) ids.push_back((first + slot * step) % experts);
  }
  return bench.indices(DType::i32, ids).split({rows, k});
}

TEST(GroupRows, EqualsTheOracle) {
  for (const int64_t rows : {1, 7, 65, 8192})
    for (const int64_t experts : {1, 4, 33})
      for (const int64_t k : {1, 2, 4}) {
        if (k > experts) continue;
        SCOPED_TRACE(::testing::Message() << rows << " rows, " << experts << " experts, " << k);
        Bench bench(size_t(1) << 21);
        Stream stream({}, 3);
        const Tensor ids = choices(bench, rows, experts, k), place = bench.empty(DType::i32, {rows, k});
        const Tensor sorted = bench.empty(DType::i32, {rows * k}), begin = bench.empty(DType::i32, {experts + 1});
        group_rows(stream, {.sorted_rows = sorted, .place = place, .expert_begin = begin, .expert_ids = ids});
        int64_t at = 0, wrong = 0;
        for (int64_t e = 0; e < experts; ++e) {
          wrong += get(begin, e) != double(at);
          for (int64_t i = 0; i < rows * k; ++i) {
            if (get(ids, i) != double(e)) continue;
            wrong += get(sorted, at) != double(i / k);
            wrong += get(place, i) != double(at++);
          }
        }
        EXPECT_EQ(get(begin, experts), double(rows * k));
        EXPECT_EQ(wrong, 0);
      }
}

TEST(GroupRows, RefusesOtherShapesAndTypes) {
  Bench bench(1 << 16);
  Stream stream;
  GroupRows op{.sorted_rows = bench.empty(DType::i32, {14}),
               .place = bench.empty(DType::i32, {7, 2}),
               .expert_begin = bench.empty(DType::i32, {5}),
               .expert_ids = choices(bench, 7, 4, 2)};
  group_rows(stream, op);
  op.sorted_rows = bench.empty(DType::i32, {13});
  EXPECT_BROKEN(group_rows(stream, op), "one row per choice");
  op.sorted_rows = bench.empty(DType::i64, {14});
  EXPECT_BROKEN(group_rows(stream, op), "one row per choice");
  op.sorted_rows = bench.empty(DType::i32, {14}), op.expert_begin = bench.empty(DType::i32, {4});
  EXPECT_BROKEN(group_rows(stream, op), "every choice is one of the experts");
}

}  // namespace
}  // namespace fulgur
