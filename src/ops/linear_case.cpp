// y = x * w^T and its gradients against plain f64 loops.
#include "ops/linear.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using cases::Bench;
using cases::CaseStream;

constexpr size_t kBytes = size_t(4) << 20, kManyBytes = size_t(64) << 20;

std::vector<double> numbers(const Tensor& t) {
  std::vector<double> values;
  for (int64_t i = 0; i < t.count(); ++i) values.push_back(cases::get(t, i));
  return values;
}

void oracle(const Linear& op) {
  const std::vector<double> x = numbers(op.x), w = numbers(op.w.values);
  const auto in = size_t(op.w.in());
  for (int64_t i = 0; i < op.y.count(); ++i) {
    const double *const row = x.data() + size_t(i / op.w.out()) * in, *const of =
                                                                          w.data() + size_t(i % op.w.out()) * in;
    double sum = 0;
    for (size_t k = 0; k < in; ++k) sum += row[k] * of[k];
    cases::set(op.y, i, sum);
  }
}

void oracle(const LinearBackward& op) {
  const std::vector<double> x = numbers(op.x), w = numbers(op.w.values), dy = numbers(op.dy);
  const auto rows = size_t(op.x.dim(0)), out = size_t(op.w.out()), in = size_t(op.w.in());
  std::vector<double> dx = op.dx_store == Store::add ? numbers(op.dx) : std::vector<double>(rows * in),
                      dw = numbers(op.dw);
  for (size_t row = 0; row < rows; ++row)
    for (size_t o = 0; o < out; ++o)
      for (size_t i = 0; i < in; ++i) {
        dx[row * in + i] += dy[row * out + o] * w[o * in + i];
        dw[o * in + i] += dy[row * out + o] * x[row * in + i];
      }
  for (size_t i = 0; i < dx.size(); ++i) cases::set(op.dx, int64_t(i), dx[i]);
  for (size_t i = 0; i < dw.size(); ++i) cases::set(op.dw, int64_t(i), dw[i]);
}

struct Shape {
  int64_t rows, out, in;
};

// The first columns of a wider matrix: rows that do not lie end to end.
Tensor narrow(Bench& bench, DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  return bench.random(dtype, {rows, columns + 5}, seed).slice(1, 2, 2 + columns);
}

LinearBackward random_backward(Bench& bench, DType dtype, const Shape& s, Store store) {
  return {.dx = bench.random(dtype, {s.rows, s.in}, 4),
          .dw = bench.random(wide(dtype), {s.out, s.in}, 5),
          .dy = narrow(bench, dtype, s.rows, s.out, 6),
          .x = narrow(bench, dtype, s.rows, s.in, 7),
          .w = {bench.random(dtype, {s.out, s.in}, 8)},
          .dx_store = store};
}

constexpr Shape kShapes[] = {{1, 1, 1},     {1, 65, 129}, {7, 17, 1},     {17, 1, 65},
                             {65, 129, 17}, {129, 7, 65}, {64, 128, 300}, {0, 5, 4}};
constexpr double kF32Bound = 1e-6;  // ||difference|| / ||right||; 2e-7 is seen
// Of sums kept in a type. What is stored as bf16 was rounded once: half a unit in the last of 8 bits, 2e-3 is seen.
double bound(DType dtype) { return dtype == DType::f64 ? 1e-14 : dtype == DType::f32 ? kF32Bound : 4e-3; }

TEST(Linear, MatchesTheOracle) {
  for (const int threads : {1, 2}) {
    CaseStream stream({}, threads);
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      for (const Shape& s : kShapes) {
        Bench bench(kBytes);
        const Linear op{.y = bench.empty(dtype, {s.rows, s.out}),
                        .x = narrow(bench, dtype, s.rows, s.in, 1),
                        .w = {narrow(bench, dtype, s.out, s.in, 2)}};
        const auto exact = with_tensors(op, [&](Operand o) { return bench.converted(*o.tensor, DType::f64); });
        linear(stream, op);
        oracle(exact);
        EXPECT_LE(cases::relative_gap(op.y, exact.y), bound(dtype)) << s.rows << " " << s.out << " " << s.in;
      }
    }
  }
}

TEST(Linear, WritesIntoAWiderOutput) {
  CaseStream stream;
  Bench bench(kBytes);
  const Tensor wide = bench.zeros(DType::f32, {9, 40});
  const Linear op{.y = wide.slice(1, 3, 24),
                  .x = bench.random(DType::f32, {9, 33}, 1),
                  .w = {bench.random(DType::f32, {21, 33}, 2)}};
  const auto exact = with_tensors(op, [&](Operand o) { return bench.converted(*o.tensor, DType::f64); });
  linear(stream, op);
  oracle(exact);
  EXPECT_LE(cases::relative_gap(op.y, exact.y), kF32Bound);
  for (int64_t row = 0; row < 9; ++row)
    for (const int64_t column : {0, 1, 2, 24, 25, 39}) EXPECT_EQ(cases::get(wide, row * 40 + column), 0) << column;
}

TEST(Linear, GradientsMatchTheOracle) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    for (const Store store : {Store::overwrite, Store::add}) {
      for (const Shape& s : kShapes) {
        Bench bench(kBytes);
        const LinearBackward op = random_backward(bench, dtype, s, store);
        const auto exact = with_tensors(op, [&](Operand o) { return bench.converted(*o.tensor, DType::f64); });
        linear_backward(stream, op);
        oracle(exact);
        EXPECT_LE(cases::relative_gap(op.dx, exact.dx), bound(dtype)) << s.rows << " " << s.out << " " << s.in;
        EXPECT_LE(cases::relative_gap(op.dw, exact.dw), bound(wide(dtype))) << s.rows << " " << s.out << " " << s.in;
      }
    }
  }
}

TEST(Linear, GradientsMatchCentralDifferences) {
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  const Linear op{.y = bench.empty(DType::f64, {7, 17}),
                  .x = bench.random(DType::f64, {7, 9}, 1),
                  .w = {bench.random(DType::f64, {17, 9}, 2)}};
  const LinearBackward back{.dx = bench.empty(DType::f64, {7, 9}),
                            .dw = bench.zeros(DType::f64, {17, 9}),
                            .dy = bench.random(DType::f64, {7, 17}, 3),
                            .x = op.x,
                            .w = op.w};
  linear_backward(stream, back);
  const auto loss = [&] {
    linear(stream, op);
    return cases::inner(op.y, back.dy);
  };
  EXPECT_LE(cases::gradient_gap(loss, op.x, back.dx), 1e-8);
  EXPECT_LE(cases::gradient_gap(loss, op.w.values, back.dw), 1e-8);
}

// Of bf16 operands; y and dy may be f32. A dy in f32 is rounded to bf16 as it enters its products.
void expect_near_f64(Bench& bench, CaseStream& stream, const Linear& op, const LinearBackward& back) {
  const auto in_f64 = [&](Operand o) { return bench.converted(*o.tensor, DType::f64); };
  const auto exact = with_tensors(op, in_f64);
  auto exact_back = with_tensors(back, in_f64);
  exact_back.dy = bench.converted(bench.converted(back.dy, DType::bf16), DType::f64);
  linear(stream, op), linear_backward(stream, back);
  oracle(exact), oracle(exact_back);
  const auto sizes = [&] { return std::to_string(op.y.dim(0)) + " rows to " + std::to_string(op.y.dim(1)); };
  EXPECT_LE(cases::relative_gap(op.y, exact.y), bound(op.y.dtype)) << sizes();
  EXPECT_LE(cases::relative_gap(back.dx, exact_back.dx), bound(DType::bf16)) << sizes();
  EXPECT_LE(cases::relative_gap(back.dw, exact_back.dw), kF32Bound) << sizes();
}

// The head and the router: bf16 rows and weights, f32 outputs and their f32 gradients, rounded where they enter.
TEST(Linear, WideOutputsOfBf16Rows) {
  CaseStream stream({}, 2);
  Bench bench(kBytes);
  const Shape s{65, 33, 47};
  LinearBackward back = random_backward(bench, DType::bf16, s, Store::add);
  back.dy = bench.random(DType::f32, {s.rows, s.out}, 9);
  const Linear op{.y = bench.empty(DType::f32, {s.rows, s.out}), .x = back.x, .w = back.w};
  expect_near_f64(bench, stream, op, back);
}

// Rows in two calls give the weight's gradient the bits of one call: micro-batches agree. In bf16 a call begins at a
// multiple of 32 rows.
TEST(Linear, WeightGradientGoesOnFromWhatIsThere) {
  CaseStream stream({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bench bench(kBytes);
    const Shape s{97, 33, 47};
    const LinearBackward whole = random_backward(bench, dtype, s, Store::overwrite);
    LinearBackward half = whole;
    half.dw = bench.converted(whole.dw, DType::f32);
    linear_backward(stream, whole);
    const int64_t middle = dtype == DType::f32 ? 29 : 64;
    for (const auto& [begin, end] : {std::pair{int64_t(0), middle}, std::pair{middle, s.rows}}) {
      LinearBackward one = half;
      one.dx = whole.dx.rows(begin, end), one.dy = whole.dy.rows(begin, end), one.x = whole.x.rows(begin, end);
      linear_backward(stream, one);
    }
    EXPECT_TRUE(cases::same_bits(half.dw, whole.dw)) << name_of(dtype);
  }
}

// Shapes and strides that a GPU's copy engine takes, so that its kernels for large tiles and for few rows run: tiles
// with a rest in rows, outputs or inputs.
constexpr Shape kEvenShapes[] = {{300, 272, 136}, {257, 520, 40},  {600, 16, 264}, {77, 24, 1096}, {5, 8, 584},
                                 {1, 72, 200},    {20, 136, 1096}, {128, 80, 264}, {65, 32, 72}};

LinearBackward even_backward(Bench& bench, DType dy_type, const Shape& s, Store store) {
  return {.dx = bench.random(DType::bf16, {s.rows, s.in}, 4),
          .dw = bench.random(DType::f32, {s.out, s.in}, 5),
          .dy = bench.random(dy_type, {s.rows, s.out}, 6),
          .x = bench.random(DType::bf16, {s.rows, s.in + 16}, 7).slice(1, 8, s.in + 8),
          .w = {bench.random(DType::bf16, {s.out, s.in}, 8)},
          .dx_store = store};
}

TEST(Linear, EvenShapesMatchTheOracle) {
  CaseStream stream({}, 2);
  for (const Shape& s : kEvenShapes) {
    Bench bench(kManyBytes);
    const DType type = s.out % 16 == 0 ? DType::bf16 : DType::f32;  // of y and dy
    const LinearBackward back = even_backward(bench, type, s, type == DType::f32 ? Store::add : Store::overwrite);
    const Linear op{.y = bench.empty(type, {s.rows, s.out}), .x = back.x, .w = back.w};
    expect_near_f64(bench, stream, op, back);
  }
}

// More tiles than a GPU has places for: a sample of the rows, and every bit of what operands that lie unevenly give,
// and the rows in parts, as chunks are.
void expect_bits_of_rows_in_parts(const Shape& s) {
  CaseStream stream({}, 2);
  Bench bench(kManyBytes);
  const Tensor x = bench.random(DType::bf16, {s.rows, s.in}, 1), uneven_x = narrow(bench, DType::bf16, s.rows, s.in, 1);
  for (int64_t i = 0; i < x.count(); ++i) cases::set(uneven_x, i, cases::get(x, i));
  const Weight w = {bench.random(DType::bf16, {s.out, s.in}, 2)};
  const auto empty = [&] { return bench.empty(DType::bf16, {s.rows, s.out}); };
  const Linear op{.y = empty(), .x = x, .w = w}, uneven{.y = empty(), .x = uneven_x, .w = w}, parts{empty(), x, w};
  linear(stream, op), linear(stream, uneven);
  for (const auto& [begin, end] : {std::pair{int64_t(0), int64_t(1)}, {1, 20}, {20, 140}, {140, s.rows}})
    linear(stream, {.y = parts.y.rows(begin, end), .x = x.rows(begin, end), .w = w});
  EXPECT_TRUE(cases::same_bits(op.y, uneven.y));
  EXPECT_TRUE(cases::same_bits(op.y, parts.y));
  for (const int64_t row : {int64_t(0), int64_t(1300), s.rows - 1}) {
    const Linear one{.y = op.y.rows(row, row + 1), .x = x.rows(row, row + 1), .w = w};
    const auto exact = with_tensors(one, [&](Operand o) { return bench.converted(*o.tensor, DType::f64); });
    oracle(exact);
    EXPECT_LE(cases::relative_gap(one.y, exact.y), bound(DType::bf16)) << row;
  }
}
TEST(Linear, ManyTilesHaveTheBitsOfParts) {
  expect_bits_of_rows_in_parts({2600, 904, 24});
  expect_bits_of_rows_in_parts({2600, 1800, 24});  // some tiles are cut in two, so that all processors have work
}

// The same of gradients, and of rows in two calls, as micro-batches are.
void expect_bits_of_parts(DType dy_type, const Shape& s, Store store) {
  CaseStream stream({}, 2);
  Bench bench(kManyBytes);
  const LinearBackward whole = even_backward(bench, dy_type, s, store);
  const auto copy_of = [&](const Tensor& t) { return bench.converted(t, t.dtype); };
  LinearBackward uneven = whole, parts = whole;
  for (LinearBackward* other : {&uneven, &parts}) other->dx = copy_of(whole.dx), other->dw = copy_of(whole.dw);
  uneven.x = narrow(bench, DType::bf16, s.rows, s.in, 1);
  for (int64_t i = 0; i < s.rows * s.in; ++i) cases::set(uneven.x, i, cases::get(whole.x, i));
  linear_backward(stream, whole), linear_backward(stream, uneven);
  for (const auto& [begin, end] : {std::pair{int64_t(0), int64_t(32)}, {32, s.rows}}) {
    LinearBackward one = parts;
    one.dx = parts.dx.rows(begin, end), one.dy = whole.dy.rows(begin, end), one.x = whole.x.rows(begin, end);
    linear_backward(stream, one);
  }
  EXPECT_TRUE(cases::same_bits(whole.dx, uneven.dx) && cases::same_bits(whole.dx, parts.dx)) << s.out;
  EXPECT_TRUE(cases::same_bits(whole.dw, uneven.dw) && cases::same_bits(whole.dw, parts.dw)) << s.out;
}
TEST(Linear, GradientsHaveTheBitsOfParts) {
  expect_bits_of_parts(DType::bf16, {600, 136, 264}, Store::overwrite);
  expect_bits_of_parts(DType::f32, {1900, 16, 136}, Store::add);  // more rows than a thread block keeps at a time
  expect_bits_of_parts(DType::f32, {600, 24, 520}, Store::add);
}

TEST(Linear, RefusesWrongShapesAndTypes) {
  CaseStream stream;
  Bench bench(kBytes);
  const Tensor x = bench.random(DType::f32, {3, 8}, 1), w = bench.random(DType::f32, {5, 8}, 2);
  EXPECT_BROKEN(linear(stream, {.y = bench.empty(DType::f32, {3, 6}), .x = x, .w = {w}}), "y has the weight's outputs");
  EXPECT_BROKEN(
      linear(stream, {.y = bench.empty(DType::f32, {3, 5}), .x = x, .w = {bench.random(DType::f64, {5, 8}, 2)}}),
      "kernel element type matches the tensor");
  const Linear integers{.y = bench.empty(DType::f32, {3, 5}), .x = bench.zeros(DType::i32, {3, 8}), .w = {w}};
  EXPECT_THROW(linear(stream, integers), Error);
}

}  // namespace
}  // namespace fulgur
