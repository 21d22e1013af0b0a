// Softmax attention: against the plain softmax, the same bytes in any chunks and company and from pages, gradients.
#include "ops/softmax_attention.h"

#include "ops/attention_case.h"
#include "ops/store_kv.h"

namespace fulgur {
namespace {

using namespace cases;

struct Heads {
  int64_t q, kv, width;
  int64_t all() const { return q + 2 * kv; }
};

// One tensor of rows, heads of q, then k, then v.
struct Parts {
  Tensor q, k, v;
};

Parts parts_of(const Tensor& qkv, const Heads& heads) {
  return {qkv.slice(1, 0, heads.q), qkv.slice(1, heads.q, heads.q + heads.kv),
          qkv.slice(1, heads.q + heads.kv, heads.all())};
}

struct Attended {
  Tensor o, log_sum_exp;
};

Attended attend(Bench& bench, const Tensor& qkv, const Heads& heads, const Layout& layout, int threads = 2) {
  const Parts parts = parts_of(qkv, heads);
  const Attended result{bench.empty(qkv.dtype, {layout.rows, heads.q, heads.width}),
                        bench.empty(qkv.dtype, {heads.q, layout.rows})};
  Stream stream({}, threads);
  softmax_attention(stream, {.o = result.o,
                             .q = parts.q,
                             .k = parts.k,
                             .v = parts.v,
                             .row_begin = layout.row_begin,
                             .positions = layout.positions,
                             .longest = layout.longest,
                             .log_sum_exp = result.log_sum_exp});
  return result;
}

// Softmax over all scores of a row of one sequence at once, without blocks or running statistics.
Attended plain(Bench& bench, const Tensor& qkv, const Heads& heads) {
  const int64_t rows = qkv.dim(0);
  const Tensor wide = bench.converted(qkv, DType::f64);
  const Parts parts = parts_of(wide, heads);
  const auto q = parts.q.view<double, 3>(), k = parts.k.view<double, 3>(), v = parts.v.view<double, 3>();
  const Attended result{bench.zeros(DType::f64, {rows, heads.q, heads.width}),
                        bench.zeros(DType::f64, {heads.q, rows})};
  const auto o = result.o.view<double, 3>();
  for (int64_t h = 0; h < heads.q; ++h) {
    const int64_t g = h / (heads.q / heads.kv);
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<double> scores(size_t(i + 1), 0.0);
      for (int64_t j = 0; j <= i; ++j) {
        for (int64_t d = 0; d < heads.width; ++d) scores[size_t(j)] += q(i, h, d) * k(j, g, d);
        scores[size_t(j)] /= std::sqrt(double(heads.width));
      }
      const double highest = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& s : scores) total += s = std::exp(s - highest);
      for (int64_t j = 0; j <= i; ++j)
        for (int64_t d = 0; d < heads.width; ++d) o(i, h, d) += scores[size_t(j)] / total * v(j, g, d);
      set(result.log_sum_exp, h * rows + i, highest + std::log(total));
    }
  }
  return result;
}

double twin_gap(DType type, const std::vector<int64_t>& counts, const Heads& heads, double spread = 2) {
  Bench bench(size_t(16) << 20);
  const Layout layout = lay_out(bench, counts);
  const Tensor qkv = bench.random(type, {layout.rows, heads.all(), heads.width}, 1, spread);
  const Attended have = attend(bench, qkv, heads, layout);
  double gap = 0;
  for (int64_t begin = 0; const int64_t count : counts) {
    const Arena::Scope scope(bench.arena());
    const int64_t end = begin + count;
    const Attended want = plain(bench, qkv.rows(begin, end), heads);
    gap = std::max(gap, relative_gap(have.o.rows(begin, end), want.o));
    const double scale = std::max(1.0, std::sqrt(inner(want.log_sum_exp, want.log_sum_exp)));
    gap = std::max(gap, largest_gap(have.log_sum_exp.slice(1, begin, end), want.log_sum_exp) / scale);
    begin = end;
  }
  return gap;
}

TEST(SoftmaxAttention, MatchesThePlainSoftmax) {
  for (const Heads heads : {Heads{2, 2, 8}, Heads{3, 1, 32}, Heads{6, 2, 8}}) {
    for (const int64_t count : {1, 63, 64, 65, 255, 257}) {
      EXPECT_LT(twin_gap(DType::f64, {count}, heads), 1e-12) << count << " rows, group of " << heads.q / heads.kv;
      EXPECT_LT(twin_gap(DType::f32, {count}, heads), 2e-6) << count << " rows, group of " << heads.q / heads.kv;
    }
  }
  EXPECT_LT(twin_gap(DType::f64, {1, 1, 64, 0, 2, 63, 65, 130, 1}, {6, 2, 16}), 1e-12);
  EXPECT_LT(twin_gap(DType::f32, {1, 1, 64, 0, 2, 63, 65, 130, 1}, {6, 2, 16}), 2e-6);
  EXPECT_LT(twin_gap(DType::f64, {130}, {3, 1, 128}), 1e-12);
  EXPECT_LT(twin_gap(DType::f32, {130}, {3, 1, 128}), 2e-6);
}

TEST(SoftmaxAttention, SurvivesLargeScores) {
  EXPECT_LT(twin_gap(DType::f64, {200}, {2, 1, 16}, 60), 1e-11);
  EXPECT_LT(twin_gap(DType::f32, {200}, {2, 1, 16}, 20), 2e-5);
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
        {qkv, {bench_.empty(type_, {rows, heads_.q, heads_.width}), bench_.empty(type_, {heads_.q, rows})}, chunk, 0});
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
                          bench_.empty(type_, {heads_.q, layout.rows})};
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
  Stream stream_;
  Tensor pages_;
};

class SoftmaxAttentionChunks : public testing::TestWithParam<DType> {};

TEST_P(SoftmaxAttentionChunks, GiveTheSameBytesFromPages) {
  constexpr Heads kHeads{6, 2, 24};
  Bench bench(size_t(32) << 20);
  std::vector<Tensor> data;
  std::vector<Attended> whole;
  for (const int64_t length : {257, 70, 129}) {
    data.push_back(bench.random(GetParam(), {length, kHeads.all(), kHeads.width}, uint64_t(length), 3));
    whole.push_back(attend(bench, data.back(), kHeads, lay_out(bench, {length}), 1));
  }
  const auto expect_same = [&](const Served::Sequence& have, const Attended& want, const std::string& what) {
    EXPECT_TRUE(same_bits(have.result.o, want.o)) << what << ": o";
    EXPECT_TRUE(same_bits(have.result.log_sum_exp, want.log_sum_exp)) << what << ": log-sum-exp";
  };
  for (const int64_t chunk : {1, 17, 63, 64, 65, 255, 257}) {
    const std::string name = "chunk " + std::to_string(chunk);
    const Arena::Scope scope(bench.arena());
    Served alone(bench, GetParam(), kHeads, 2);
    alone.add(data[0], chunk), alone.run();
    expect_same(alone.sequences[0], whole[0], name + " alone");
    Served company(bench, GetParam(), kHeads, chunk % 2 ? 2 : 1);
    company.add(data[1], 3), company.add(data[0], chunk), company.add(data[2], 40), company.run();
    expect_same(company.sequences[0], whole[1], name + ": neighbour before");
    expect_same(company.sequences[1], whole[0], name + " in company");
    expect_same(company.sequences[2], whole[2], name + ": neighbour behind");
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttentionChunks, testing::Values(DType::f32, DType::f64),
                         [](const auto& type) { return std::string(name_of(type.param)); });

// The gradient of qkv, all three parts as slices of one tensor.
Tensor backward(Bench& bench, const Tensor& qkv, const Tensor& d_o, const Heads& heads, const Layout& layout,
                int threads = 2) {
  const Attended attended = attend(bench, qkv, heads, layout, threads);
  const Tensor d_qkv = bench.empty(qkv.dtype, {layout.rows, heads.all(), heads.width});
  const Parts parts = parts_of(qkv, heads), gradients = parts_of(d_qkv, heads);
  Stream stream({}, threads);
  softmax_attention_backward(stream, {.dq = gradients.q,
                                      .dk = gradients.k,
                                      .dv = gradients.v,
                                      .d_o = d_o,
                                      .q = parts.q,
                                      .k = parts.k,
                                      .v = parts.v,
                                      .o = attended.o,
                                      .log_sum_exp = attended.log_sum_exp,
                                      .row_begin = layout.row_begin,
                                      .positions = layout.positions,
                                      .longest = layout.longest});
  return d_qkv;
}

TEST(SoftmaxAttentionBackward, MatchesCentralDifferences) {
  for (const Heads heads : {Heads{2, 2, 3}, Heads{3, 1, 4}, Heads{4, 2, 2}}) {
    Bench bench(size_t(16) << 20);
    const Layout layout = lay_out(bench, {1, 3, 66, 0, 64});
    const Tensor qkv = bench.random(DType::f64, {layout.rows, heads.all(), heads.width}, 2, 2);
    const Tensor d_o = bench.random(DType::f64, {layout.rows, heads.q, heads.width}, 3);
    const Parts have = parts_of(backward(bench, qkv, d_o, heads, layout), heads), inputs = parts_of(qkv, heads);
    const auto loss = [&] {
      const Arena::Scope scope(bench.arena());
      return inner(attend(bench, qkv, heads, layout, 1).o, d_o);
    };
    EXPECT_LT(gradient_gap(loss, inputs.q, have.q), 1e-7) << "dq, group of " << heads.q / heads.kv;
    EXPECT_LT(gradient_gap(loss, inputs.k, have.k), 1e-7) << "dk, group of " << heads.q / heads.kv;
    EXPECT_LT(gradient_gap(loss, inputs.v, have.v), 1e-7) << "dv, group of " << heads.q / heads.kv;
  }
}

// Straight from the formulas, for lengths that central differences cannot afford.
Tensor plain_gradient(Bench& bench, const Tensor& qkv, const Tensor& d_o, const Heads& heads) {
  const int64_t rows = qkv.dim(0);
  const double scale = 1 / std::sqrt(double(heads.width));
  const Attended attended = plain(bench, qkv, heads);
  const Tensor wide = bench.converted(qkv, DType::f64),
               d_wide = bench.zeros(DType::f64, {rows, heads.all(), heads.width});
  const auto x = wide.view<double, 3>(), dx = d_wide.view<double, 3>();
  const auto g = bench.converted(d_o, DType::f64).view<double, 3>(), o = attended.o.view<double, 3>();
  const auto dot = [&](const auto& a, int64_t i, int64_t h, const auto& b, int64_t j, int64_t e) {
    double sum = 0;
    for (int64_t d = 0; d < heads.width; ++d) sum += a(i, h, d) * b(j, e, d);
    return sum;
  };
  for (int64_t h = 0; h < heads.q; ++h) {
    const int64_t k = heads.q + h / (heads.q / heads.kv), v = k + heads.kv;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        const double p = std::exp(scale * dot(x, i, h, x, j, k) - get(attended.log_sum_exp, h * rows + i));
        const double ds = p * (dot(g, i, h, x, j, v) - dot(g, i, h, o, i, h));
        for (int64_t d = 0; d < heads.width; ++d) {
          dx(j, v, d) += p * g(i, h, d);
          dx(j, k, d) += scale * ds * x(i, h, d), dx(i, h, d) += scale * ds * x(j, k, d);
        }
      }
    }
  }
  return d_wide;
}

TEST(SoftmaxAttentionBackward, MatchesThePlainFormulas) {
  constexpr Heads kHeads{6, 2, 32};
  for (const int64_t count : {1, 64, 65, 257}) {
    for (const DType type : {DType::f64, DType::f32}) {
      Bench bench(size_t(16) << 20);
      const Tensor qkv = bench.random(type, {count, kHeads.all(), kHeads.width}, 4, 1.5);
      const Tensor d_o = bench.random(type, {count, kHeads.q, kHeads.width}, 5);
      const Tensor have = backward(bench, qkv, d_o, kHeads, lay_out(bench, {count}));
      EXPECT_LT(relative_gap(have, plain_gradient(bench, qkv, d_o, kHeads)), type == DType::f64 ? 1e-12 : 2e-6)
          << count;
    }
  }
}

TEST(SoftmaxAttentionBackward, DependsOnNeitherNeighboursNorThreads) {
  constexpr Heads kHeads{3, 1, 16};
  for (const DType type : {DType::f32, DType::f64}) {
    Bench bench(size_t(16) << 20);
    const Tensor qkv = bench.random(type, {270, kHeads.all(), kHeads.width}, 6, 2);
    const Tensor d_o = bench.random(type, {270, kHeads.q, kHeads.width}, 7);
    const Tensor packed = backward(bench, qkv, d_o, kHeads, lay_out(bench, {65, 0, 1, 130, 74}), 2);
    for (int64_t begin = 0; const int64_t count : {65, 1, 130, 74}) {
      const int64_t end = begin + count;
      const Tensor alone =
          backward(bench, qkv.rows(begin, end), d_o.rows(begin, end), kHeads, lay_out(bench, {count}), 1);
      EXPECT_TRUE(same_bits(packed.rows(begin, end), alone)) << count << " rows";
      begin = end;
    }
  }
}

TEST(SoftmaxAttentionDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Layout layout = lay_out(bench, {4});
  const Tensor q = bench.zeros(DType::f32, {4, 3, 8}), k = bench.zeros(DType::f32, {4, 1, 8});
  const Tensor log_sum_exp = bench.zeros(DType::f32, {3, 4});
  SoftmaxAttention op{.o = q,
                      .q = q,
                      .k = bench.zeros(DType::f32, {4, 1, 7}),
                      .v = k,
                      .row_begin = layout.row_begin,
                      .positions = layout.positions,
                      .longest = 4};
  Stream stream;
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
  SoftmaxAttentionBackward gradient{.dq = q,
                                    .dk = bench.zeros(DType::f32, {4, 3, 8}),
                                    .dv = k,
                                    .d_o = q,
                                    .q = q,
                                    .k = k,
                                    .v = k,
                                    .o = q,
                                    .log_sum_exp = log_sum_exp,
                                    .row_begin = layout.row_begin,
                                    .positions = layout.positions,
                                    .longest = 4};
  EXPECT_BROKEN(softmax_attention_backward(stream, gradient), "gradients match k and v");
  gradient.dk = k, gradient.log_sum_exp = bench.zeros(DType::f64, {3, 4});
  EXPECT_BROKEN(softmax_attention_backward(stream, gradient), "one log-sum-exp per head and row");
}

}  // namespace
}  // namespace fulgur
