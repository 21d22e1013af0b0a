// Softmax attention: against the plain softmax, the same bytes in any chunks and company and from pages.
#include "ops/softmax_attention_case.h"

#include "ops/store_kv.h"

namespace fulgur {
namespace {

using namespace cases;

struct TwinGap {
  double o, log_sum_exp;
};

// Of packed sequences from the plain softmax; the second relative to the larger of 1 and the size of all of a sequence.
TwinGap twin_gap(Bench& bench, DType type, const std::vector<int64_t>& counts, const Heads& heads, double spread = 2) {
  const Arena::Scope call(bench.arena());
  const Layout layout = lay_out(bench, counts);
  const Tensor qkv = bench.random(type, {layout.rows, heads.all(), heads.width}, 1, spread);
  const Attended have = attend(bench, qkv, heads, layout);
  Gaps of_o;
  double of_log_sum_exp = 0;
  for (int64_t begin = 0; const int64_t count : counts) {
    const Arena::Scope scope(bench.arena());
    const int64_t end = begin + count;
    const Attended want = plain(bench, qkv.rows(begin, end), heads);
    of_o.add(have.o.rows(begin, end), want.o);
    const double scale = std::max(1.0, std::sqrt(inner(want.log_sum_exp, want.log_sum_exp)));
    of_log_sum_exp =
        larger(of_log_sum_exp, largest_gap(have.log_sum_exp.slice(1, begin, end), want.log_sum_exp) / scale);
    begin = end;
  }
  return {of_o.of(type), of_log_sum_exp};
}

class SoftmaxAttentionTwin : public testing::TestWithParam<DType> {};

TEST_P(SoftmaxAttentionTwin, MatchesThePlainSoftmax) {
  const DType type = GetParam();
  Bench bench(size_t(64) << 20);
  const auto expect_near = [&](const std::vector<int64_t>& counts, const Heads& heads) {
    const TwinGap gap = twin_gap(bench, type, counts, heads);
    const std::string name = std::to_string(counts.size()) + " sequences from " + std::to_string(counts[0]) +
                             " rows, width " + std::to_string(heads.width) + ", group of " +
                             std::to_string(heads.q / heads.kv);
    EXPECT_LT(gap.o, bound_of(type)) << name;
    EXPECT_LT(gap.log_sum_exp, type == DType::f64 ? 1e-12 : 2e-6) << name;  // wide sums of exact products
  };
  for (const int64_t width : widths_of(type)) {
    const Heads heads{6, 2, width};
    for (const int64_t count : {1, 63, 64, 65, 255, 257}) expect_near({count}, heads);
  }
  for (const Heads heads : {Heads{2, 2, 16}, Heads{3, 1, 32}, Heads{1, 1, 128}}) expect_near({257}, heads);
  expect_near({1000}, {4, 2, 64}), expect_near({1, 1, 64, 0, 2, 63, 65, 130, 1}, {6, 2, 16});
}

// The last row of every sequence that has any, its keys in pages.
struct LastRows {
  std::vector<int64_t> lengths;
  Heads heads;
  Tensor q, pages, table;
};

LastRows last_rows(Bench& bench, DType type, const std::vector<int64_t>& lengths, const Heads& heads) {
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t columns = (longest + kGrid - 1) / kGrid, count = int64_t(lengths.size());
  const int64_t rows = count - std::count(lengths.begin(), lengths.end(), 0);
  std::vector<int64_t> table, starts;
  int64_t used = 0;
  for (const int64_t length : lengths) {
    starts.push_back(used), used += (length + kGrid - 1) / kGrid;
    for (int64_t c = 0; c < columns; ++c) table.push_back(c * kGrid < length ? starts.back() + c : -1);
  }
  for (int64_t& page : table) page = page < 0 ? page : used - 1 - page;
  LastRows result{lengths, heads, bench.random(type, {rows, heads.q, heads.width}, 1, 2),
                  bench.empty(type, {used, 2, heads.kv, kGrid, heads.width}),
                  bench.indices(DType::i32, table).split({count, columns})};
  for (size_t s = 0; s < lengths.size(); ++s)  // what lies behind the last row stays NaN
    for (int64_t j = 0; j < lengths[s]; j += kGrid) {
      const Tensor page =
          result.pages.at(used - 1 - starts[s] - j / kGrid).slice(2, 0, std::min(kGrid, lengths[s] - j));
      copy_elements(page, bench.random(type, {2, heads.kv, page.dim(2), heads.width}, uint64_t(10 + starts[s] + j), 2));
    }
  return result;
}

// Of sequence `only`, or of all.
Attended attend_last(Bench& bench, const LastRows& c, bool in_order, int64_t only = -1) {
  std::vector<int64_t> counts, starts, row{0};
  for (const int64_t length : c.lengths) row.push_back(row.back() + (length > 0));
  const int64_t begin = only < 0 ? 0 : only, end = only < 0 ? int64_t(c.lengths.size()) : only + 1;
  for (int64_t s = begin; s < end; ++s)
    counts.push_back(c.lengths[size_t(s)] > 0), starts.push_back(c.lengths[size_t(s)] - 1);
  const Layout layout = lay_out(bench, counts, starts);
  const Tensor q = c.q.rows(row[size_t(begin)], row[size_t(end)]);
  const Attended result{bench.empty(q.dtype, {layout.rows, c.heads.q, c.heads.width}),
                        bench.empty(wide(q.dtype), {c.heads.q, layout.rows})};
  CaseStream stream({}, 2);
  softmax_attention(stream, {.o = result.o,
                             .q = q,
                             .row_begin = layout.row_begin,
                             .positions = layout.positions,
                             .longest = layout.longest,
                             .page_table = c.table.rows(begin, end),
                             .kv_pages = c.pages,
                             .log_sum_exp = result.log_sum_exp,
                             .in_order = in_order});
  return result;
}

// The plain softmax of sequence s, its row of q being `row`.
Attended plain_last(Bench& bench, const LastRows& c, int64_t s, int64_t row) {
  const int64_t length = c.lengths[size_t(s)];
  const Heads& heads = c.heads;
  const Attended result{bench.zeros(DType::f64, {1, heads.q, heads.width}), bench.zeros(DType::f64, {heads.q, 1})};
  for (int64_t h = 0; h < heads.q; ++h) {
    const Tensor q = c.q.at(row).at(h);
    std::vector<double> scores;
    double total = 0, highest = -INFINITY;
    const auto rows = [&](int64_t part, int64_t j) {
      const Tensor page = c.pages.at(int64_t(get(c.table, s * c.table.dim(1) + j / kGrid)));
      return page.at(part).at(h / (heads.q / heads.kv)).at(j % kGrid);
    };
    for (int64_t j = 0; j < length; ++j)
      scores.push_back(inner(q, rows(0, j)) / std::sqrt(double(heads.width))),
          highest = std::max(highest, scores.back());
    for (double& score : scores) total += score = std::exp(score - highest);
    for (int64_t j = 0; j < length; ++j) {
      const Tensor v = rows(1, j);
      for (int64_t d = 0; d < heads.width; ++d)
        set(result.o, h * heads.width + d, get(result.o, h * heads.width + d) + scores[size_t(j)] / total * get(v, d));
    }
    set(result.log_sum_exp, h, highest + std::log(total));
  }
  return result;
}

TEST_P(SoftmaxAttentionTwin, SumsTheKeysOfALastRowInAnyOrder) {
  const DType type = GetParam();
  Bench bench(size_t(64) << 20);
  const auto expect_near = [&](const std::vector<int64_t>& lengths, const Heads& heads) {
    const Arena::Scope call(bench.arena());
    const LastRows c = last_rows(bench, type, lengths, heads);
    const Attended all = attend_last(bench, c, false), in_order = attend_last(bench, c, true);
    Gaps of_o;
    for (int64_t s = 0, row = 0; s<int64_t(lengths.size()); row += lengths[size_t(s++)]> 0) {
      if (lengths[size_t(s)] == 0) continue;
      const Arena::Scope scope(bench.arena());
      const std::string name = std::to_string(lengths[size_t(s)]) + " positions, width " + std::to_string(heads.width);
      const Attended want = plain_last(bench, c, s, row), alone = attend_last(bench, c, false, s);
      const Tensor o = all.o.rows(row, row + 1), log_sum_exp = all.log_sum_exp.slice(1, row, row + 1);
      of_o.add(o, want.o);
      EXPECT_LT(relative_gap(o, in_order.o.rows(row, row + 1)), bound_of(type)) << name;
      EXPECT_LT(relative_gap(log_sum_exp, want.log_sum_exp), type == DType::f64 ? 1e-12 : 2e-6) << name;
      EXPECT_TRUE(same_bits(o, alone.o)) << name << " alone";
      EXPECT_TRUE(same_bits(log_sum_exp, alone.log_sum_exp)) << name << " alone";
    }
    EXPECT_LT(of_o.of(type), bound_of(type)) << lengths[0] << " positions first, width " << heads.width;
  };
  expect_near({1, 64, 0, 65, 256, 257, 700}, {6, 2, 128});
  expect_near({63, 600}, {9, 1, 64}), expect_near({300}, {4, 4, 16});
  std::vector<int64_t> few(300, 0);  // among many that rest, and longer than several rounds of a GPU's thread blocks
  few[7] = 9000, few[200] = 5000;
  expect_near(few, {2, 1, 64});
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttentionTwin, run_types(), name_of_type);

TEST(SoftmaxAttention, SurvivesLargeScores) {
  Bench bench(size_t(16) << 20);
  const auto gap = [&](DType type, double spread) {
    const TwinGap one = twin_gap(bench, type, {200}, {2, 1, 16}, spread);
    return larger(one.o, one.log_sum_exp);
  };
  EXPECT_LT(gap(DType::f64, 60), 1e-11);
  EXPECT_LT(gap(DType::f32, 20), 2e-5);
  EXPECT_LT(gap(DType::bf16, 20), bound_of(DType::bf16));
}

// Sequences that go through store_kv and the operator in chunks, their pages in no order.
class Served {
 public:
  Served(Bench& bench, DType type, const Heads& heads, int threads)
      : bench_(bench), type_(type), heads_(heads), stream_({}, threads) {
    pages_ = bench.empty(type, {kPages, 2, heads.kv, kGrid, heads.width});
  }
  void add(const Tensor& qkv, int64_t chunk) {
    const int64_t rows = qkv.dim(0);
    sequences.push_back(
        {qkv,
         {bench_.empty(type_, {rows, heads_.q, heads_.width}), bench_.empty(wide(type_), {heads_.q, rows})},
         chunk,
         0});
  }
  void run() {
    while (step()) {
    }
  }

  struct Sequence {
    Tensor qkv;
    Attended result;
    int64_t chunk, done;
  };
  std::vector<Sequence> sequences;

 private:
  static constexpr int64_t kPages = 17, kColumns = 5;

  bool step() {
    std::vector<int64_t> counts, starts, table;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = sequences[i];
      counts.push_back(std::min(s.chunk, s.qkv.dim(0) - s.done)), starts.push_back(s.done);
      for (int64_t column = 0; column < kColumns; ++column)
        table.push_back((int64_t(i) * kColumns + column) * 7 % kPages);
    }
    const Arena::Scope scope(bench_.arena());
    const Layout layout = lay_out(bench_, counts, starts);
    if (layout.rows == 0) return false;
    const Tensor qkv = bench_.empty(type_, {layout.rows, heads_.all(), heads_.width});
    int64_t row = 0;
    for (size_t i = 0; i < sequences.size(); row += counts[i++])
      copy_elements(qkv.rows(row, row + counts[i]),
                    sequences[i].qkv.rows(sequences[i].done, sequences[i].done + counts[i]));
    const Attended result =
        attend_pages(qkv, layout, bench_.indices(DType::i32, table).split({int64_t(sequences.size()), kColumns}));
    row = 0;
    for (size_t i = 0; i < sequences.size(); row += counts[i++]) {
      Sequence& s = sequences[i];
      const int64_t from = s.done, to = s.done += counts[i], end = row + counts[i];
      copy_elements(s.result.o.rows(from, to), result.o.rows(row, end));
      copy_elements(s.result.log_sum_exp.slice(1, from, to), result.log_sum_exp.slice(1, row, end));
    }
    return true;
  }

  Attended attend_pages(const Tensor& qkv, const Layout& layout, const Tensor& table) {
    const Parts parts = parts_of(qkv, heads_);
    const Attended result{bench_.empty(type_, {layout.rows, heads_.q, heads_.width}),
                          bench_.empty(wide(type_), {heads_.q, layout.rows})};
    store_kv(stream_, {.kv_pages = pages_,
                       .k = parts.k,
                       .v = parts.v,
                       .row_begin = layout.row_begin,
                       .positions = layout.positions,
                       .page_table = table});
    softmax_attention(stream_, {.o = result.o,
                                .q = parts.q,
                                .row_begin = layout.row_begin,
                                .positions = layout.positions,
                                .longest = layout.longest,
                                .page_table = table,
                                .kv_pages = pages_,
                                .log_sum_exp = result.log_sum_exp});
    return result;
  }

  Bench& bench_;
  DType type_;
  Heads heads_;
  CaseStream stream_;
  Tensor pages_;
};

// The first of three sequences in chunks, alone and between the other two, against each of them at once.
void expect_same_bytes_from_pages(DType type, const Heads& heads, const std::vector<int64_t>& lengths,
                                  const std::vector<int64_t>& chunks) {
  Bench bench(size_t(48) << 20);
  std::vector<Tensor> data;
  std::vector<Attended> whole;
  for (const int64_t length : lengths) {
    data.push_back(bench.random(type, {length, heads.all(), heads.width}, uint64_t(length), 3));
    whole.push_back(attend(bench, data.back(), heads, lay_out(bench, {length}), 1));
  }
  const auto expect_same = [&](const Served::Sequence& have, const Attended& want, const std::string& what) {
    EXPECT_TRUE(same_bits(have.result.o, want.o)) << what << ": o";
    EXPECT_TRUE(same_bits(have.result.log_sum_exp, want.log_sum_exp)) << what << ": log-sum-exp";
  };
  for (const int64_t chunk : chunks) {
    const std::string name = "width " + std::to_string(heads.width) + ", chunk " + std::to_string(chunk);
    const Arena::Scope scope(bench.arena());
    Served alone(bench, type, heads, 2);
    alone.add(data[0], chunk), alone.run();
    expect_same(alone.sequences[0], whole[0], name + " alone");
    Served company(bench, type, heads, chunk % 2 ? 2 : 1);
    company.add(data[1], 3), company.add(data[0], chunk), company.add(data[2], 40), company.run();
    expect_same(company.sequences[0], whole[1], name + ": neighbour before");
    expect_same(company.sequences[1], whole[0], name + " in company");
    expect_same(company.sequences[2], whole[2], name + ": neighbour behind");
  }
}

class SoftmaxAttentionChunks : public testing::TestWithParam<DType> {};

TEST_P(SoftmaxAttentionChunks, GiveTheSameBytesFromPages) {
  expect_same_bytes_from_pages(GetParam(), {6, 2, 24}, {257, 70, 129}, {1, 17, 63, 64, 65, 255, 257});
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttentionChunks, run_types(), name_of_type);

// Heads of 128, whose keys a kernel may walk in larger tiles.
TEST(SoftmaxAttention, GivesTheSameBytesFromPagesForWideHeads) {
  expect_same_bytes_from_pages(DType::bf16, {3, 1, 128}, {257, 10, 80}, {50, 64, 129});
  expect_same_bytes_from_pages(DType::bf16, {2, 2, 128}, {131, 3, 40}, {1});
}

TEST(SoftmaxAttentionDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Layout layout = lay_out(bench, {4});
  const Tensor q = bench.zeros(DType::f32, {4, 3, 8}), k = bench.zeros(DType::f32, {4, 1, 8});
  SoftmaxAttention op{.o = q,
                      .q = q,
                      .k = bench.zeros(DType::f32, {4, 1, 7}),
                      .v = k,
                      .row_begin = layout.row_begin,
                      .positions = layout.positions,
                      .longest = 4};
  CaseStream stream;
  EXPECT_BROKEN(softmax_attention(stream, op), "k and v match q");
  op.k = k, op.log_sum_exp = bench.zeros(DType::f64, {3, 4});
  EXPECT_BROKEN(softmax_attention(stream, op), "one log-sum-exp per head and row");
  SoftmaxAttention paged{.o = q,
                         .q = q,
                         .row_begin = layout.row_begin,
                         .positions = lay_out(bench, {4}, {64}).positions,
                         .longest = 4,
                         .page_table = bench.indices(DType::i32, {0}).split({1, 1}),
                         .kv_pages = bench.zeros(DType::f32, {1, 2, 1, kGrid, 8})};
  EXPECT_BROKEN(softmax_attention(stream, paged), "the page table reaches every position");
}

}  // namespace
}  // namespace fulgur
