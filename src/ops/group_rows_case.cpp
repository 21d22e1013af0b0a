// group_rows against an oracle that walks the choices once per expert.
#include "ops/group_rows.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

// Of numbers that are no result: what is not written shows.
Tensor unwritten(Bench& bench, std::initializer_list<int64_t> shape) {
  const Tensor t = bench.empty(DType::i32, shape);
  std::fill_n(t.elements<int32_t>(), t.count(), 1 << 30);
  return t;
}

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

// Walks the choices once per expert and counts what it does not find as the oracle says.
int64_t wrong_entries(const GroupRows& op) {
  const int64_t k = op.place.dim(1), experts = op.expert_begin.dim(0) - 1, per_window = op.rows_per_window() * k;
  int64_t at = 0, wrong = 0;
  for (int64_t e = 0; e < experts; ++e) {
    wrong += get(op.expert_begin, e) != double(at);
    int64_t chosen = 0;
    for (int64_t i = 0; i < op.place.count(); ++i) {
      if (i % per_window == 0) chosen = 0;
      if (get(op.expert_ids, i) == double(e)) {
        const bool kept = ++chosen <= op.capacity || op.capacity == 0;
        wrong += get(op.place, i) != (kept ? double(at) : -1.0);
        if (kept) wrong += get(op.sorted_rows, at++) != double(i / k);
      }
      if (op.choices && (i + 1) % per_window == 0)
        wrong += get(op.choices, i / per_window * experts + e) != double(chosen);
    }
  }
  wrong += get(op.expert_begin, experts) != double(at);
  while (at < op.sorted_rows.count()) wrong += get(op.sorted_rows, at++) != -1;
  return wrong;
}

TEST(GroupRows, EqualsTheOracle) {
  for (const int64_t rows : {1, 7, 66, 8192})
    for (const int64_t experts : {1, 4, 33})
      for (const int64_t k : {1, 2, 4})
        for (const auto& [windows, capacity] : {std::pair{0, 0}, {1, 1}, {2, 0}, {2, 3}, {2, 100}}) {
          if (k > experts || (windows > 0 && rows % windows != 0)) continue;
          if (case_device->given() && rows == 8192 && k != 4) continue;  // an emulated GPU takes its time
          SCOPED_TRACE(::testing::Message() << rows << " rows, " << experts << " experts, " << k << ", " << windows
                                            << " windows of " << capacity);
          Bench bench(size_t(1) << 21);
          CaseStream stream({}, 3);
          const GroupRows op{.sorted_rows = unwritten(bench, {rows * k}),
                             .place = unwritten(bench, {rows, k}),
                             .expert_begin = unwritten(bench, {experts + 1}),
                             .expert_ids = choices(bench, rows, experts, k),
                             .choices = unwritten(bench, {std::max(windows, 1), experts}),
                             .window = windows > 0 ? rows / windows : 0,
                             .capacity = capacity};
          group_rows(stream, op);
          EXPECT_EQ(wrong_entries(op), 0);
        }
}

// A few more than a warp has lanes, too. Of so many experts most have none; of k every row chooses all.
TEST(GroupRows, PlacesFewChoices) {
  for (int64_t count = 1; count <= 36; ++count)
    for (const int64_t k : {1, 2, 3})
      for (const int64_t experts : {k, int64_t(64), int64_t(256)})
        for (const int64_t capacity : {0, 1, 3}) {
          if (count % k != 0) continue;
          SCOPED_TRACE(::testing::Message() << count << " choices, " << k << " of " << experts << ", " << capacity);
          Bench bench(size_t(1) << 18);
          CaseStream stream({}, 3);
          const GroupRows op{.sorted_rows = bench.indices(DType::i32, std::vector<int64_t>(size_t(count), 7)),
                             .place = bench.empty(DType::i32, {count / k, k}),
                             .expert_begin = unwritten(bench, {experts + 1}),
                             .expert_ids = choices(bench, count / k, experts, k),
                             .choices = bench.empty(DType::i32, {1, experts}),
                             .capacity = capacity};
          group_rows(stream, op);
          EXPECT_EQ(wrong_entries(op), 0);
        }
}

// Without a count of choices: nobody asks for windows, and a twin may have its own.
TEST(GroupRows, CountsForNobody) {
  for (const int64_t rows : {1, 33, 256, 500, 2500})
    for (const int64_t experts : {5, 70, 300}) {
      SCOPED_TRACE(::testing::Message() << rows << " rows, " << experts << " experts");
      Bench bench(size_t(1) << 20);
      CaseStream stream({}, 3);
      const GroupRows op{.sorted_rows = bench.empty(DType::i32, {rows * 3}),
                         .place = bench.empty(DType::i32, {rows, 3}),
                         .expert_begin = unwritten(bench, {experts + 1}),
                         .expert_ids = choices(bench, rows, experts, 3)};
      group_rows(stream, op);
      EXPECT_EQ(wrong_entries(op), 0);
    }
}

// Without a count of choices, and with the dropped choices known by hand: expert 1 takes two of a window's three.
TEST(GroupRows, EarlierRowsComeFirst) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor ids = bench.indices(DType::i32, {1, 0, 0, 1, 2, 1, 1, 2}).split({4, 2});
  const GroupRows op{.sorted_rows = bench.empty(DType::i32, {8}),
                     .place = bench.empty(DType::i32, {4, 2}),
                     .expert_begin = bench.empty(DType::i32, {4}),
                     .expert_ids = ids,
                     .window = 4,
                     .capacity = 2};
  group_rows(stream, op);
  const double place[] = {2, 0, 1, 3, 4, -1, -1, 5}, rows[] = {0, 1, 0, 1, 2, 3, -1, -1}, begin[] = {0, 2, 4, 6};
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(get(op.place, i), place[i]) << i;
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(get(op.sorted_rows, i), rows[i]) << i;
  for (int64_t e = 0; e < 4; ++e) EXPECT_EQ(get(op.expert_begin, e), begin[e]) << e;
}

TEST(GroupRows, RefusesOtherShapesAndTypes) {
  Bench bench(1 << 16);
  CaseStream stream;
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
  op.expert_begin = bench.empty(DType::i32, {5}), op.window = 2;
  EXPECT_BROKEN(group_rows(stream, op), "windows fill the rows");
  op.window = 7, op.choices = bench.empty(DType::i32, {2, 4});
  EXPECT_BROKEN(group_rows(stream, op), "one count per window and expert");
}

}  // namespace
}  // namespace fulgur
