// store_kv: every row at its place of its sequence's pages, nothing else touched.
#include "ops/store_kv.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr int64_t kPages = 9, kHeads = 2, kWidth = 6;  // of a head; CUDA moves vectors of a wider one

class StoreKvTypes : public testing::TestWithParam<DType> {};

void expect_rows_at_their_positions(DType type, int64_t width) {
  Bench bench(size_t(1) << 24);
  const std::vector<std::vector<int64_t>> table{{7, 2, 0}, {4, 5, 0}, {1, 8, 3}};
  const std::vector<int64_t> starts{60, 0, 127}, counts{10, 0, 65};
  std::vector<int64_t> begin{0}, positions, flat;
  for (size_t s = 0; s < 3; ++s) {
    for (int64_t i = 0; i < counts[s]; ++i) positions.push_back(starts[s] + i);
    begin.push_back(begin.back() + counts[s]);
    flat.insert(flat.end(), table[s].begin(), table[s].end());
  }
  const Tensor pages = bench.random(type, {kPages, 2, kHeads, kGrid, width}, 1);
  const Tensor want = bench.converted(pages, type);
  const Tensor qkv = bench.random(type, {75, 4 + 2 * kHeads, width}, 2);
  const Tensor k = qkv.slice(1, 4, 4 + kHeads), v = qkv.slice(1, 4 + kHeads, 4 + 2 * kHeads);
  for (size_t s = 0; s < 3; ++s) {
    for (int64_t row = begin[s]; row < begin[s + 1]; ++row) {
      const int64_t position = positions[size_t(row)], page = table[s][size_t(position / kGrid)];
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t d = 0; d < width; ++d) {
          const int64_t at = ((page * 2 * kHeads + h) * kGrid + position % kGrid) * width + d;
          set(want, at, get(k, (row * kHeads + h) * width + d));
          set(want, at + kHeads * kGrid * width, get(v, (row * kHeads + h) * width + d));
        }
      }
    }
  }
  CaseStream stream({}, 2);
  store_kv(stream, {.kv_pages = pages,
                    .k = k,
                    .v = v,
                    .row_begin = bench.indices(DType::i32, begin),
                    .positions = bench.indices(DType::i64, positions),
                    .page_table = bench.indices(DType::i32, flat).split({3, 3})});
  EXPECT_TRUE(same_bits(pages, want));
}

TEST_P(StoreKvTypes, PutsEveryRowAtItsPosition) {
  for (const int64_t width : {kWidth, int64_t(128)}) expect_rows_at_their_positions(GetParam(), width);
}

INSTANTIATE_TEST_SUITE_P(Types, StoreKvTypes, testing::Values(DType::f32, DType::f64, DType::bf16),
                         [](const auto& type) { return std::string(name_of(type.param)); });

TEST(StoreKvDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Tensor k = bench.zeros(DType::f32, {1, kHeads, kWidth});
  StoreKv op{.kv_pages = bench.zeros(DType::f32, {kPages, 2, kHeads, 32, kWidth}),
             .k = k,
             .v = k,
             .row_begin = bench.indices(DType::i32, {0, 1}),
             .positions = bench.indices(DType::i64, {0}),
             .page_table = bench.indices(DType::i32, {3}).split({1, 1})};
  CaseStream stream;
  EXPECT_BROKEN(store_kv(stream, op), "pages match k");
  op.kv_pages = bench.zeros(DType::f64, {kPages, 2, kHeads, kGrid, kWidth});
  EXPECT_BROKEN(store_kv(stream, op), "pages match k");
  op.kv_pages = bench.zeros(DType::f32, {kPages, 2, kHeads, kGrid, kWidth});
  op.positions = bench.indices(DType::i64, {64});
  EXPECT_BROKEN(store_kv(stream, op), "the page table reaches every position");
}

}  // namespace
}  // namespace fulgur
