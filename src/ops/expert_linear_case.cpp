// A product per expert over its own rows, and its gradients, against plain f64 loops.
#include "ops/expert_linear.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using cases::Bench;
using cases::CaseStream;

constexpr size_t kBytes = size_t(4) << 20;

// visit(expert, row) for every row of every expert.
template <class Visit>
void for_each_row(const Tensor& expert_begin, Visit visit) {
  for (int64_t expert = 0; expert + 1 < expert_begin.dim(0); ++expert)
    for (auto row = int64_t(cases::get(expert_begin, expert)); row < int64_t(cases::get(expert_begin, expert + 1));
         ++row)
      visit(expert, row);
}

std::vector<double> numbers(const Tensor& t) {
  std::vector<double> values;
  for (int64_t i = 0; i < t.count(); ++i) values.push_back(cases::get(t, i));
  return values;
}

void oracle(const ExpertLinear& op) {
  const std::vector<double> x = numbers(op.x), w = numbers(op.w.values);
  const int64_t out = op.w.out(), in = op.w.in();
  for_each_row(op.expert_begin, [&](int64_t expert, int64_t row) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += x[size_t(row * in + i)] * w[size_t((expert * out + o) * in + i)];
      cases::set(op.y, row * out + o, sum);
    }
  });
}

void oracle(const ExpertLinearBackward& op) {
  const std::vector<double> x = numbers(op.x), w = numbers(op.w.values), all_dy = numbers(op.dy);
  std::vector<double> dw = numbers(op.dw);
  const int64_t out = op.w.out(), in = op.w.in();
  for_each_row(op.expert_begin, [&](int64_t expert, int64_t row) {
    for (int64_t i = 0; i < in; ++i) {
      double sum = 0;
      for (int64_t o = 0; o < out; ++o) {
        const auto at = size_t((expert * out + o) * in + i);
        const double dy = all_dy[size_t(row * out + o)];
        sum += dy * w[at];
        dw[at] += dy * x[size_t(row * in + i)];
      }
      cases::set(op.dx, row * in + i, sum);
    }
  });
  for (size_t i = 0; i < dw.size(); ++i) cases::set(op.dw, int64_t(i), dw[i]);
}

struct Shape {
  std::vector<int64_t> begin;
  int64_t out, in;
  int64_t experts() const { return int64_t(begin.size()) - 1; }
  int64_t rows() const { return begin.back(); }
};

// Experts without rows at the start, in the middle and at the end, one row, many rows.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{{0, 1}, 1, 1},
                                         {{0, 0, 7, 7, 24, 89, 90, 90}, 17, 33},
                                         {{0, 129, 130}, 65, 7},
                                         {{0, 3, 68, 68, 200}, 129, 65},
                                         {{0, 0, 0}, 4, 6}};
  return all;
}

ExpertLinear random_forward(Bench& bench, DType dtype, const Shape& s) {
  return {.y = bench.empty(dtype, {s.rows(), s.out}),
          .x = bench.random(dtype, {s.rows(), s.in + 3}, 1).slice(1, 1, s.in + 1),
          .w = {bench.random(dtype, {s.experts(), s.out, s.in}, 2)},
          .expert_begin = bench.indices(DType::i32, s.begin)};
}

ExpertLinearBackward random_backward(Bench& bench, const ExpertLinear& forward) {
  const Tensor& w = forward.w.values;
  return {.dx = bench.empty(w.dtype, {forward.x.dim(0), forward.x.dim(1)}),
          .dw = bench.random(wide(w.dtype), {w.dim(0), w.dim(1), w.dim(2)}, 3),
          .dy = bench.random(w.dtype, {forward.y.dim(0), forward.y.dim(1)}, 4),
          .x = forward.x,
          .w = forward.w,
          .expert_begin = forward.expert_begin};
}

template <class Op>
Op exact_copy(Bench& bench, const Op& op) {
  return with_tensors(op, [&](Operand o) {
    return o.tensor->dtype == DType::i32 ? *o.tensor : bench.converted(*o.tensor, DType::f64);
  });
}

// Of sums kept in a type; what is stored as bf16 was rounded once.
constexpr double bound(DType dtype) { return dtype == DType::f64 ? 1e-14 : dtype == DType::f32 ? 1e-6 : 4e-3; }

TEST(ExpertLinear, MatchesTheOracle) {
  for (const int threads : {1, 2}) {
    CaseStream stream({}, threads);
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      for (const Shape& s : shapes()) {
        Bench bench(kBytes);
        const ExpertLinear op = random_forward(bench, dtype, s);
        const ExpertLinear exact = exact_copy(bench, op);
        expert_linear(stream, op);
        oracle(exact);
        EXPECT_LE(cases::relative_gap(op.y, exact.y), bound(dtype)) << s.rows() << " " << s.out << " " << s.in;
      }
    }
  }
}

TEST(ExpertLinear, GradientsMatchTheOracle) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    for (const Shape& s : shapes()) {
      Bench bench(kBytes);
      const ExpertLinearBackward op = random_backward(bench, random_forward(bench, dtype, s));
      const ExpertLinearBackward exact = exact_copy(bench, op);
      expert_linear_backward(stream, op);
      oracle(exact);
      EXPECT_LE(cases::relative_gap(op.dx, exact.dx), bound(dtype)) << s.rows() << " " << s.out << " " << s.in;
      EXPECT_LE(cases::relative_gap(op.dw, exact.dw), bound(wide(dtype))) << s.rows() << " " << s.out << " " << s.in;
    }
  }
}

TEST(ExpertLinear, GradientsMatchCentralDifferences) {
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  const ExpertLinear op = random_forward(bench, DType::f64, {{0, 0, 5, 6, 11}, 7, 9});
  const ExpertLinearBackward back = random_backward(bench, op);
  clear(stream, back.dw);
  expert_linear_backward(stream, back);
  const auto loss = [&] {
    expert_linear(stream, op);
    return cases::inner(op.y, back.dy);
  };
  EXPECT_LE(cases::gradient_gap(loss, op.x, back.dx), 1e-8);
  EXPECT_LE(cases::gradient_gap(loss, op.w.values, back.dw), 1e-8);
}

// One expert's rows alone have the bits that they have in the batch.
TEST(ExpertLinear, ARowDoesNotDependOnOtherExperts) {
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  const ExpertLinear all = random_forward(bench, DType::f32, {{0, 31, 32, 90}, 33, 65});
  expert_linear(stream, all);
  ExpertLinear alone = all;
  alone.y = bench.empty(DType::f32, {90, 33});
  for (const auto& begin : {std::vector<int64_t>{0, 31, 31, 31}, {31, 31, 32, 32}, {32, 32, 32, 90}}) {
    alone.expert_begin = bench.indices(DType::i32, begin);
    expert_linear(stream, alone);
  }
  EXPECT_TRUE(cases::same_bits(alone.y, all.y));
}

// With NaN in the rows that belong to no expert, as dropped choices leave them.
TEST(ExpertLinear, RowsOfNoExpertAreNotReadAndBecomeZero) {
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  for (const auto& begin : {std::vector<int64_t>{0, 3, 68, 68, 85}, {0, 0, 0, 0, 0}}) {
    const int64_t kept = begin.back();
    ExpertLinear op = random_forward(bench, DType::f32, {{0, 3, 68, 68, 90}, 17, 9});
    op.expert_begin = bench.indices(DType::i32, begin);
    const ExpertLinearBackward back = random_backward(bench, op);
    for (const Tensor& t : {op.x, back.dy})
      std::memset(t.data + kept * t.stride[0] * 4, 0xff, size_t(t.rows(kept, 90).count() * 4));
    const Tensor dw = bench.converted(back.dw, DType::f32);
    expert_linear(stream, op);
    expert_linear_backward(stream, back);
    const auto zero = [&](const Tensor& t) {
      const Tensor surplus = t.rows(kept, 90);
      return cases::same_bits(surplus, bench.zeros(t.dtype, {surplus.dim(0), surplus.dim(1)}));
    };
    EXPECT_TRUE(zero(op.y) && zero(back.dx)) << kept;
    EXPECT_EQ(cases::same_bits(back.dw, dw), kept == 0);
    EXPECT_TRUE(std::isfinite(cases::inner(back.dw, back.dw))) << kept;
  }
}

// Rows 0 ... 127 of 2 choices each in one call, and in calls of a multiple of row_block rows: the gradients of the
// experts' weights have the same bits.
void expect_parts_of_the_whole(int64_t out, int64_t in) {
  constexpr int64_t kRows = 128, kBlock = 32, kExperts = 3;
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  const Tensor x = bench.random(DType::bf16, {kRows, in}, 1), dy = bench.random(DType::bf16, {kRows, out}, 2);
  const Tensor w = bench.random(DType::bf16, {kExperts, out, in}, 3);
  const auto gradient = [&](int64_t rows_at_once, int64_t row_block) {
    const Tensor dw = bench.random(DType::f32, {kExperts, out, in}, 4);
    for (int64_t first = 0; first < kRows; first += rows_at_once) {
      std::vector<int64_t> rows, begin = {0};
      for (int64_t expert = 0; expert < kExperts; ++expert) {
        for (int64_t row = first; row < first + rows_at_once; ++row)
          if (philox(5, uint64_t(row), 0)[0] % kExperts != uint64_t(expert)) rows.push_back(row);
        begin.push_back(int64_t(rows.size()));
      }
      const int64_t choices = int64_t(rows.size());
      const Tensor grouped_x = bench.empty(DType::bf16, {choices, in}),
                   grouped_dy = bench.empty(DType::bf16, {choices, out});
      for (int64_t i = 0; i < choices; ++i) {
        for (int64_t c = 0; c < in; ++c) cases::set(grouped_x, i * in + c, cases::get(x, rows[size_t(i)] * in + c));
        for (int64_t c = 0; c < out; ++c)
          cases::set(grouped_dy, i * out + c, cases::get(dy, rows[size_t(i)] * out + c));
      }
      for (int64_t& row : rows) row -= first;
      expert_linear_backward(stream, {.dx = bench.empty(DType::bf16, {choices, in}),
                                      .dw = dw,
                                      .dy = grouped_dy,
                                      .x = grouped_x,
                                      .w = {w},
                                      .expert_begin = bench.indices(DType::i32, begin),
                                      .choice_rows = row_block ? bench.indices(DType::i32, rows) : Tensor{},
                                      .row_block = row_block});
    }
    return dw;
  };
  const Tensor whole = gradient(kRows, kBlock);
  EXPECT_TRUE(cases::same_bits(gradient(kBlock, kBlock), whole));
  EXPECT_TRUE(cases::same_bits(gradient(2 * kBlock, kBlock), whole));
  EXPECT_LE(cases::relative_gap(gradient(kRows, 0), whole), 1e-6);
}

// Of unequal numbers, and of those that a GPU's copy engine takes.
TEST(ExpertLinear, WeightGradientsOfPartsAreThoseOfTheWhole) {
  expect_parts_of_the_whole(17, 33);
  expect_parts_of_the_whole(24, 40);
}

// Shapes that a GPU's copy engine takes, of choices in their hundreds and of few: experts without rows, experts of more
// than a tile's rows, rows of no expert that are NaN.
TEST(ExpertLinear, EvenShapesMatchTheOracle) {
  const Shape large[] = {
      {{0, 0, 290, 290, 291, 420, 470}, 136, 72}, {{0, 520, 600}, 264, 40}, {{0, 3, 3, 44, 46, 70}, 72, 200}};
  CaseStream stream({}, 2);
  for (const Shape& s : large) {
    Bench bench(size_t(32) << 20);
    const int64_t surplus = 30;
    ExpertLinear op{.y = bench.empty(DType::bf16, {s.rows() + surplus, s.out}),
                    .x = bench.random(DType::bf16, {s.rows() + surplus, s.in}, 1),
                    .w = {bench.random(DType::bf16, {s.experts(), s.out, s.in}, 2)},
                    .expert_begin = bench.indices(DType::i32, s.begin)};
    ExpertLinearBackward back = random_backward(bench, op);
    for (const Tensor& t : {op.x, back.dy}) std::memset(t.at(s.rows()).data, 0xff, size_t(surplus * t.dim(1) * 2));
    const ExpertLinear exact = exact_copy(bench, op);
    const ExpertLinearBackward exact_back = exact_copy(bench, back);
    expert_linear(stream, op), expert_linear_backward(stream, back);
    oracle(exact), oracle(exact_back);
    const auto kept = [&](const Tensor& t) { return t.rows(0, s.rows()); };
    EXPECT_LE(cases::relative_gap(kept(op.y), kept(exact.y)), bound(DType::bf16)) << s.out;
    EXPECT_LE(cases::relative_gap(kept(back.dx), kept(exact_back.dx)), bound(DType::bf16)) << s.out;
    EXPECT_LE(cases::relative_gap(back.dw, exact_back.dw), bound(DType::f32)) << s.out;
    for (const Tensor& t : {op.y, back.dx})
      EXPECT_TRUE(
          cases::same_bits(t.rows(s.rows(), s.rows() + surplus), bench.zeros(DType::bf16, {surplus, t.dim(1)})));
  }
}

// Of weights' gradients that nothing was added to before; of experts without rows too.
TEST(ExpertLinear, WeightGradientsAreAddedOrReplaced) {
  CaseStream stream({}, 2);
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s :
         {Shape{{0, 0, 7, 7, 24, 89, 90, 90}, 17, 33}, Shape{{0, 0, 290, 290, 291, 420, 470}, 136, 72}}) {
      Bench bench(size_t(64) << 20);
      ExpertLinearBackward op = random_backward(bench, random_forward(bench, type, s));
      op.x = bench.random(type, {s.rows(), s.in}, 1);
      ExpertLinearBackward replacing = op;
      replacing.dx = bench.empty(type, {s.rows(), s.in});
      std::memset(replacing.dw.data, 0xff, size_t(replacing.dw.bytes())), replacing.dw_store = Store::overwrite;
      expert_linear_backward(stream, replacing);
      op.dw = bench.zeros(wide(type), {s.experts(), s.out, s.in});
      expert_linear_backward(stream, op);
      EXPECT_TRUE(cases::same_bits(replacing.dw, op.dw)) << name_of(type) << ' ' << s.out;
      EXPECT_TRUE(cases::same_bits(replacing.dx, op.dx)) << name_of(type) << ' ' << s.out;
    }
}

// Some rows of every expert's matrix, the others NaN, have the bits of matrices that lie end to end.
TEST(ExpertLinear, MatricesMayLieApart) {
  CaseStream stream({}, 2);
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : {Shape{{0, 0, 7, 7, 24, 89, 90, 90}, 17, 33}, Shape{{0, 0, 290, 290, 291, 420, 470}, 136, 72},
                           Shape{{0, 3, 3, 44, 46, 70}, 72, 200}}) {
      Bench bench(size_t(64) << 20);
      ExpertLinear op = random_forward(bench, type, s);
      op.x = bench.random(type, {s.rows(), s.in}, 1);
      ExpertLinearBackward back = random_backward(bench, op);
      ExpertLinear apart = op;
      const Tensor all = bench.empty(type, {s.experts(), 2 * s.out + 8, s.in});
      apart.y = bench.empty(type, {s.rows(), s.out}), apart.w.values = all.slice(1, s.out, 2 * s.out);
      for (int64_t i = 0; i < op.w.values.count(); ++i) cases::set(apart.w.values, i, cases::get(op.w.values, i));
      ExpertLinearBackward apart_back = back;
      apart_back.dx = bench.empty(type, {s.rows(), s.in}), apart_back.dw = bench.converted(back.dw, back.dw.dtype);
      apart_back.w = apart.w;
      expert_linear(stream, op), expert_linear(stream, apart);
      expert_linear_backward(stream, back), expert_linear_backward(stream, apart_back);
      EXPECT_TRUE(cases::same_bits(apart.y, op.y)) << name_of(type) << ' ' << s.out;
      EXPECT_TRUE(cases::same_bits(apart_back.dx, back.dx)) << name_of(type) << ' ' << s.out;
      EXPECT_TRUE(cases::same_bits(apart_back.dw, back.dw)) << name_of(type) << ' ' << s.out;
    }
}

TEST(ExpertLinear, RefusesWrongShapesAndTypes) {
  CaseStream stream;
  Bench bench(kBytes);
  const ExpertLinear good = random_forward(bench, DType::f32, {{0, 2, 5}, 4, 3});
  ExpertLinear wrong = good;
  wrong.y = bench.empty(DType::f32, {5, 6});
  EXPECT_BROKEN(expert_linear(stream, wrong), "y has the experts' outputs");
  wrong = good;
  wrong.expert_begin = bench.indices(DType::i32, {0, 4, 6});
  EXPECT_BROKEN(expert_linear(stream, wrong), "experts' rows ascend within the choices");
  wrong = good;
  wrong.w = {bench.random(DType::f64, {2, 4, 3}, 2)};
  EXPECT_BROKEN(expert_linear(stream, wrong), "kernel element type matches the tensor");
  wrong = good;
  wrong.x = bench.zeros(DType::i32, {5, 3}), wrong.y = bench.zeros(DType::i32, {5, 4});
  EXPECT_THROW(expert_linear(stream, wrong), Error);
}

}  // namespace
}  // namespace fulgur
