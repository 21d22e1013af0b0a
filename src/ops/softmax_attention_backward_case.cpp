// Softmax attention's gradients: central differences, the plain formulas, and the same bits in any company.
#include "ops/softmax_attention_case.h"

namespace fulgur {
namespace {

using namespace cases;

// The gradients of a call on qkv, all three parts as slices of one tensor, from what forward leaves.
SoftmaxAttentionBackward backward_of(Bench& bench, const Tensor& qkv, const Tensor& d_o, const Heads& heads,
                                     const Layout& layout, int threads = 2) {
  const Attended attended = attend(bench, qkv, heads, layout, threads);
  const Parts parts = parts_of(qkv, heads);
  const Parts gradients = parts_of(bench.empty(qkv.dtype, {layout.rows, heads.all(), heads.width}), heads);
  return {.dq = gradients.q,
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
          .longest = layout.longest};
}

Parts backward(Bench& bench, const Tensor& qkv, const Tensor& d_o, const Heads& heads, const Layout& layout,
               int threads = 2) {
  const SoftmaxAttentionBackward op = backward_of(bench, qkv, d_o, heads, layout, threads);
  CaseStream stream({}, threads);
  softmax_attention_backward(stream, op);
  return {op.dq, op.dk, op.dv};
}

TEST(SoftmaxAttentionBackward, MatchesCentralDifferences) {
  for (const Heads heads : {Heads{2, 2, 3}, Heads{3, 1, 4}, Heads{4, 2, 2}}) {
    Bench bench(size_t(16) << 20);
    const Layout layout = lay_out(bench, {1, 3, 66, 0, 64});
    const Tensor qkv = bench.random(DType::f64, {layout.rows, heads.all(), heads.width}, 2, 2);
    const Tensor d_o = bench.random(DType::f64, {layout.rows, heads.q, heads.width}, 3);
    const Parts have = backward(bench, qkv, d_o, heads, layout), inputs = parts_of(qkv, heads);
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

class SoftmaxAttentionBackwardTypes : public testing::TestWithParam<DType> {};

TEST_P(SoftmaxAttentionBackwardTypes, MatchThePlainFormulas) {
  const DType type = GetParam();
  Bench bench(size_t(16) << 20);
  for (const int64_t width : widths_of(type)) {
    const Heads heads{6, 2, width};
    for (const int64_t count : {1, 64, 65, 257}) {
      const Arena::Scope scope(bench.arena());
      const Tensor qkv = bench.random(type, {count, heads.all(), width}, 4, 1.5);
      const Tensor d_o = bench.random(type, {count, heads.q, width}, 5);
      const Parts have = backward(bench, qkv, d_o, heads, lay_out(bench, {count}));
      const Parts want = parts_of(plain_gradient(bench, qkv, d_o, heads), heads);
      const std::string name = std::to_string(count) + " rows of width " + std::to_string(width);
      EXPECT_LT(relative_gap(have.q, want.q), bound_of(type)) << "dq, " << name;
      EXPECT_LT(relative_gap(have.k, want.k), bound_of(type)) << "dk, " << name;
      EXPECT_LT(relative_gap(have.v, want.v), bound_of(type)) << "dv, " << name;
    }
  }
}

void expect_same_bytes_in_company(DType type, const Heads& heads) {
  Bench bench(size_t(16) << 20);
  const Tensor qkv = bench.random(type, {270, heads.all(), heads.width}, 6, 2);
  const Tensor d_o = bench.random(type, {270, heads.q, heads.width}, 7);
  const Parts packed = backward(bench, qkv, d_o, heads, lay_out(bench, {65, 0, 1, 130, 74}), 2);
  for (int64_t begin = 0; const int64_t count : {65, 1, 130, 74}) {
    const int64_t end = begin + count;
    const Parts alone = backward(bench, qkv.rows(begin, end), d_o.rows(begin, end), heads, lay_out(bench, {count}), 1);
    EXPECT_TRUE(same_bits(packed.q.rows(begin, end), alone.q)) << "dq, " << count << " rows";
    EXPECT_TRUE(same_bits(packed.k.rows(begin, end), alone.k)) << "dk, " << count << " rows";
    EXPECT_TRUE(same_bits(packed.v.rows(begin, end), alone.v)) << "dv, " << count << " rows";
    begin = end;
  }
}

TEST_P(SoftmaxAttentionBackwardTypes, DependOnNeitherNeighboursNorThreads) {
  expect_same_bytes_in_company(GetParam(), {3, 1, 16});
}

TEST(SoftmaxAttentionBackward, DependsOnNoNeighbourForWideHeads) {
  expect_same_bytes_in_company(DType::bf16, {3, 1, 128});
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttentionBackwardTypes, run_types(), name_of_type);

class SoftmaxAttentionBackwardTwin : public testing::TestWithParam<DType> {};

// The same call in f64. A lone row is missing here: its dq and dk are zero, which the plain formulas show.
TEST_P(SoftmaxAttentionBackwardTwin, MatchesF64) {
  const DType type = GetParam();
  Bench bench(size_t(48) << 20);
  const auto gap = [&](const std::vector<int64_t>& counts, const Heads& heads) {
    const Arena::Scope scope(bench.arena());
    const Layout layout = lay_out(bench, counts);
    const SoftmaxAttentionBackward op =
        backward_of(bench, bench.random(type, {layout.rows, heads.all(), heads.width}, 8, 2),
                    bench.random(type, {layout.rows, heads.q, heads.width}, 9), heads, layout);
    const SoftmaxAttentionBackward exact = in_f64(bench, op);
    CaseStream stream({}, 2);
    softmax_attention_backward(stream, exact), softmax_attention_backward(stream, op);
    return larger(relative_gap(op.dq, exact.dq), larger(relative_gap(op.dk, exact.dk), relative_gap(op.dv, exact.dv)));
  };
  for (const int64_t width : widths_of(type))
    for (const int64_t count : {63, 64, 65, 255, 257, 1000})
      EXPECT_LT(gap({count}, {4, 2, width}), bound_of(type)) << count << " rows of width " << width;
  EXPECT_LT(gap({257}, {3, 1, 32}), bound_of(type));
  EXPECT_LT(gap({1, 1, 64, 0, 2, 63, 65, 130, 1}, {6, 2, 16}), bound_of(type));
}

// Groups whose heads thread blocks may share evenly, or not.
TEST(SoftmaxAttentionBackward, SharesHeadsOfAnyGroup) {
  Bench bench(size_t(16) << 20);
  const Layout layout = lay_out(bench, {1, 129, 0, 70});
  for (const Heads heads : {Heads{1, 1, 128}, Heads{4, 2, 128}, Heads{5, 1, 128}, Heads{11, 1, 128}}) {
    const Arena::Scope scope(bench.arena());
    const SoftmaxAttentionBackward op =
        backward_of(bench, bench.random(DType::bf16, {layout.rows, heads.all(), heads.width}, 8, 2),
                    bench.random(DType::bf16, {layout.rows, heads.q, heads.width}, 9), heads, layout);
    const SoftmaxAttentionBackward exact = in_f64(bench, op);
    CaseStream stream({}, 2);
    softmax_attention_backward(stream, exact), softmax_attention_backward(stream, op);
    const std::string name = "group of " + std::to_string(heads.q / heads.kv);
    EXPECT_LT(relative_gap(op.dq, exact.dq), bound_of(DType::bf16)) << "dq, " << name;
    EXPECT_LT(relative_gap(op.dk, exact.dk), bound_of(DType::bf16)) << "dk, " << name;
    EXPECT_LT(relative_gap(op.dv, exact.dv), bound_of(DType::bf16)) << "dv, " << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SoftmaxAttentionBackwardTwin, testing::Values(DType::f32, DType::bf16), name_of_type);

TEST(SoftmaxAttentionBackwardDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Layout layout = lay_out(bench, {4});
  const Tensor q = bench.zeros(DType::f32, {4, 3, 8}), k = bench.zeros(DType::f32, {4, 1, 8});
  CaseStream stream;
  SoftmaxAttentionBackward gradient{.dq = q,
                                    .dk = bench.zeros(DType::f32, {4, 3, 8}),
                                    .dv = k,
                                    .d_o = q,
                                    .q = q,
                                    .k = k,
                                    .v = k,
                                    .o = q,
                                    .log_sum_exp = bench.zeros(DType::f32, {3, 4}),
                                    .row_begin = layout.row_begin,
                                    .positions = layout.positions,
                                    .longest = 4};
  EXPECT_BROKEN(softmax_attention_backward(stream, gradient), "gradients match k and v");
  gradient.dk = k, gradient.log_sum_exp = bench.zeros(DType::f64, {3, 4});
  EXPECT_BROKEN(softmax_attention_backward(stream, gradient), "one log-sum-exp per head and row");
}

}  // namespace
}  // namespace fulgur
