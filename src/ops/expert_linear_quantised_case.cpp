// expert_linear with quantised weights: the bits that the same weights give once they are dequantised, close to f64
// sums of what their numbers and scales say.
#include "ops/case.h"
#include "ops/expert_linear.h"
#include "ops/expert_swiglu.h"

namespace fulgur {
namespace {

using cases::Bench;
using cases::CaseStream;

struct Shape {
  std::vector<int64_t> begin;
  int64_t out, in;
  int64_t experts() const { return int64_t(begin.size()) - 1; }
  int64_t rows() const { return begin.back(); }
};

// Rows of none, one, few and many; columns of less than a scale, of several, and of a part of the last one. The last
// ones are as a GPU's copy engine takes them.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{{0, 1}, 1, 1},
                                         {{0, 0, 7, 7, 24, 89, 90, 90}, 17, 33},
                                         {{0, 3, 68, 200}, 129, 300},
                                         {{0, 0, 0}, 4, 6},
                                         {{0, 1, 1, 3}, 200, 384},
                                         {{0, 3, 3, 44, 46, 70}, 72, 400},
                                         {{0, 2, 9}, 64, 128},
                                         {{0, 1, 10}, 40, 656},
                                         {{0, 2, 2, 6}, 24, 1680},
                                         {{0, 5, 300}, 136, 272},
                                         {{0, 6}, 40, 1024}};
  return all;
}

// Of every expert two matrices that lie in one.
struct Stack {
  Weight upper, lower;  // [experts, out, in]
};
Stack random_stack(Bench& bench, int64_t experts, int64_t out, int64_t in) {
  const Tensor values = bench.empty(DType::i8, {experts, 2 * out, in}),
               scales = bench.random(DType::f32, {experts, 2 * out, scale_count(in)}, 3, 0.01, 0.011);
  for (int64_t i = 0; i < values.count(); ++i) cases::set(values, i, int(philox(2, uint64_t(i), 0)[0] % 255) - 127);
  for (int64_t i = 0; i < values.count(); i += 101) cases::set(values, i, -128);  // which no file of ours holds
  const auto rows = [&](int64_t begin) {
    return Weight{.values = values.slice(1, begin, begin + out), .scales = scales.slice(1, begin, begin + out)};
  };
  return {rows(0), rows(out)};
}

Weight end_to_end(Bench& bench, const Weight& w) {
  return {.values = bench.converted(w.values, DType::i8), .scales = bench.converted(w.scales, DType::f32)};
}

template <class T>
Weight dequantised_copy(Bench& bench, const Weight& w) {
  const Tensor values = bench.empty(dtype_of<T>, {w.values.dim(0), w.out(), w.in()});
  for (int64_t i = 0; i < values.count(); ++i) {
    const double scale = cases::get(w.scales, i / w.in() * scale_count(w.in()) + i % w.in() / kScaleColumns);
    values.elements<T>()[i] = dequantised<T>(int8_t(cases::get(w.values, i)), float(scale));
  }
  return {.values = values};
}

ExpertLinear random_call(Bench& bench, DType dtype, const Shape& s) {
  return {.y = bench.empty(dtype, {s.rows(), s.out}),
          .x = bench.random(dtype, {s.rows(), s.in}, 1),
          .w = random_stack(bench, s.experts(), s.out, s.in).lower,
          .expert_begin = bench.indices(DType::i32, s.begin)};
}

template <class T>
void expect_the_bits_of_dequantised_weights(const Shape& s, int threads) {
  CaseStream stream({}, threads);
  Bench bench(size_t(32) << 20);
  const ExpertLinear op = random_call(bench, dtype_of<T>, s);
  ExpertLinear plain = op, dense = op;
  plain.w = dequantised_copy<T>(bench, op.w), plain.y = bench.empty(dtype_of<T>, {s.rows(), s.out});
  dense.w = end_to_end(bench, op.w), dense.y = bench.empty(dtype_of<T>, {s.rows(), s.out});
  expert_linear(stream, op), expert_linear(stream, plain), expert_linear(stream, dense);
  EXPECT_TRUE(cases::same_bits(op.y, plain.y) && cases::same_bits(dense.y, plain.y))
      << name_of(dtype_of<T>) << " " << s.rows() << " " << s.out << " " << s.in;
}

TEST(QuantisedExperts, HaveTheBitsOfDequantisedWeights) {
  for (const Shape& s : shapes())
    for (const int threads : {1, 2}) {
      expect_the_bits_of_dequantised_weights<float>(s, threads);
      expect_the_bits_of_dequantised_weights<bf16>(s, threads);
      expect_the_bits_of_dequantised_weights<double>(s, threads);
    }
}

// Rows in any order, some several times; of no expert, some at the end.
TEST(QuantisedExperts, AreGatedAsDequantisedOnes) {
  CaseStream stream({}, 2);
  for (const Shape& s : shapes()) {
    Bench bench(size_t(32) << 20);
    const int64_t surplus = 2, choices = s.rows() + surplus, tokens = s.rows() / 2 + 1;
    const auto room = [&](int64_t width) { return bench.empty(DType::bf16, {choices, width}); };
    const auto [gate, up] = random_stack(bench, s.experts(), s.out, s.in);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < s.rows(); ++i) rows.push_back(int64_t(philox(6, uint64_t(i), 0)[0] % uint64_t(tokens)));
    rows.resize(size_t(choices), -1);
    const ExpertSwiglu op{.y = room(s.out),
                          .grouped = room(s.in),
                          .gate = room(s.out),
                          .up = room(s.out),
                          .x = bench.random(DType::bf16, {tokens, s.in}, 1),
                          .rows = bench.indices(DType::i32, rows),
                          .w_gate = gate,
                          .w_up = up,
                          .expert_begin = bench.indices(DType::i32, s.begin)};
    ExpertSwiglu plain = op, unkept = op, dense = op;
    plain.w_gate = dequantised_copy<bf16>(bench, gate), plain.w_up = dequantised_copy<bf16>(bench, up);
    plain.y = room(s.out), plain.gate = room(s.out), plain.up = room(s.out), plain.grouped = room(s.in);
    unkept.kept = false, unkept.y = room(s.out), unkept.gate = room(s.out), unkept.up = room(s.out);
    dense.w_gate = end_to_end(bench, gate), dense.w_up = end_to_end(bench, up), dense.y = room(s.out);
    expert_swiglu(stream, op), expert_swiglu(stream, plain), expert_swiglu(stream, unkept);
    SCOPED_TRACE(::testing::Message() << s.rows() << " x " << s.out << " x " << s.in);
    EXPECT_TRUE(cases::same_bits(op.y, plain.y) && cases::same_bits(unkept.y, plain.y));
    EXPECT_TRUE(cases::same_bits(op.gate, plain.gate) && cases::same_bits(op.up, plain.up));
    EXPECT_TRUE(cases::same_bits(op.grouped, plain.grouped));
    expert_swiglu(stream, dense);
    EXPECT_TRUE(cases::same_bits(dense.y, plain.y));
    EXPECT_TRUE(cases::same_bits(op.y.rows(s.rows(), choices), bench.zeros(DType::bf16, {surplus, s.out})));
  }
}

TEST(QuantisedExperts, MatchTheOracle) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    for (const Shape& s : shapes()) {
      Bench bench(size_t(32) << 20);
      const ExpertLinear op = random_call(bench, dtype, s);
      const Tensor exact = bench.zeros(DType::f64, {s.rows(), s.out});
      for (int64_t e = 0; e < s.experts(); ++e)
        for (int64_t row = s.begin[size_t(e)]; row < s.begin[size_t(e) + 1]; ++row)
          for (int64_t o = 0; o < s.out; ++o) {
            double sum = 0;
            for (int64_t i = 0; i < s.in; ++i)
              sum += cases::get(op.x, row * s.in + i) * cases::get(op.w.values, (e * s.out + o) * s.in + i) *
                     cases::get(op.w.scales, (e * s.out + o) * scale_count(s.in) + i / kScaleColumns);
            cases::set(exact, row * s.out + o, sum);
          }
      expert_linear(stream, op);
      // A scale that becomes bf16 is off by up to 1/256 of itself, and so is a product.
      EXPECT_LE(cases::relative_gap(op.y, exact), dtype == DType::f64   ? 1e-14
                                                  : dtype == DType::f32 ? 1e-6
                                                                        : 5e-3)
          << s.rows() << " " << s.out << " " << s.in;
    }
  }
}

// One expert's rows alone, and one row alone, have the bits that they have in the batch.
TEST(QuantisedExperts, ARowDoesNotDependOnOthers) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bench bench(size_t(32) << 20);
    const ExpertLinear all = random_call(bench, dtype, {{0, 31, 32, 90}, 40, 272});
    expert_linear(stream, all);
    ExpertLinear alone = all;
    alone.y = bench.zeros(dtype, {90, 40});
    for (int64_t row = 0; row < 90; ++row) {
      const int64_t expert = row < 31 ? 0 : row < 32 ? 1 : 2;
      std::vector<int64_t> begin(size_t(expert) + 1, 0);
      begin.resize(4, 1);
      alone.expert_begin = bench.indices(DType::i32, begin);
      alone.x = all.x.rows(row, row + 1), alone.y = bench.empty(dtype, {1, 40});
      expert_linear(stream, alone);
      EXPECT_TRUE(cases::same_bits(alone.y, all.y.rows(row, row + 1))) << name_of(dtype) << " " << row;
    }
  }
}

TEST(QuantisedExperts, RowsOfNoExpertBecomeZero) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bench bench(size_t(32) << 20);
    ExpertLinear op = random_call(bench, dtype, {{0, 3, 8, 90}, 72, 144});
    for (const auto& begin : {std::vector<int64_t>{0, 0, 0, 0}, {0, 3, 8, 8}}) {
      const int64_t kept = begin.back();
      op.expert_begin = bench.indices(DType::i32, begin), op.y = bench.empty(dtype, {90, 72});
      std::memset(op.x.at(8).data, 0xff, size_t(op.x.rows(8, 90).bytes()));
      expert_linear(stream, op);
      EXPECT_TRUE(cases::same_bits(op.y.rows(kept, 90), bench.zeros(dtype, {90 - kept, 72}))) << kept;
    }
    EXPECT_TRUE(std::isfinite(cases::inner(op.y, op.y)));
  }
}

TEST(QuantisedExperts, CountTheirBytes) {
  Bench bench(size_t(1) << 20);
  const ExpertLinear op = random_call(bench, DType::bf16, {{0, 2, 2, 5}, 16, 200});
  EXPECT_EQ(op.bytes(), 5 * (16 + 200) * 2 + 2 * (16 * 200 + 16 * 2 * 4));
  EXPECT_EQ(op.products().front().b, DType::bf16);
}

TEST(QuantisedExperts, RefuseWrongShapesAndGradients) {
  CaseStream stream;
  Bench bench(size_t(1) << 20);
  const ExpertLinear good = random_call(bench, DType::f32, {{0, 2, 5}, 4, 200});
  ExpertLinear wrong = good;
  wrong.w.scales = bench.zeros(DType::f32, {2, 4, 1});
  EXPECT_BROKEN(expert_linear(stream, wrong), "a scale for 128 columns of a row");
  wrong.w = {.values = bench.zeros(DType::f32, {2, 4, 200}), .scales = good.w.scales};
  EXPECT_BROKEN(expert_linear(stream, wrong), "quantised weights are i8");
  const ExpertLinearBackward back{.dx = good.x,
                                  .dw = bench.zeros(DType::f32, {2, 4, 200}),
                                  .dy = good.y,
                                  .x = good.x,
                                  .w = good.w,
                                  .expert_begin = good.expert_begin};
  EXPECT_BROKEN(expert_linear_backward(stream, back), "quantised weights have no gradients");
}

}  // namespace
}  // namespace fulgur
