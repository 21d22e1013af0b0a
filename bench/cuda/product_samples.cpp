#include <algorithm>

#include "bench/cuda/gap.h"
#include "bench/cuda/kernels.h"
#include "bench/cuda/samples.h"
#include "device/transfer.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kSampled = 8;  // rows of a result

// Row i of each result's kSampled, spread to the last.
int64_t sampled(int64_t i, int64_t rows) { return rows * (i + 1) / std::min(kSampled, rows) - 1; }

// A matrix on the host, dense, rows ascending.
struct Matrix {
  std::vector<float> values;
  int64_t rows, columns;
  double at(int64_t r, int64_t c) const { return double(values[size_t(r * columns + c)]); }
};
Matrix matrix(Stream& stream, const Tensor& t, bool rounds = false) {
  Matrix m{elements_of(stream, t), t.dim(0), t.dim(1)};
  if (rounds)
    for (float& v : m.values) v = float(bf16(v));
  return m;
}

// Adds a row of a product: `factors` of its k, each with a row of b, from row `first` on.
void add_rows(std::vector<double>& sums, const std::vector<double>& factors, const Matrix& b, int64_t first) {
  for (size_t k = 0; k < factors.size(); ++k)
    for (size_t c = 0; c < sums.size(); ++c) sums[c] += factors[k] * b.at(first + int64_t(k), int64_t(c));
}

std::vector<double> row_of(const Matrix& m, int64_t row) {
  std::vector<double> values;
  for (int64_t c = 0; c < m.columns; ++c) values.push_back(m.at(row, c));
  return values;
}
std::vector<double> column_of(const Matrix& m, int64_t column, int64_t first, int64_t end) {
  std::vector<double> values;
  for (int64_t r = first; r < end; ++r) values.push_back(m.at(r, column));
  return values;
}

void judge_output(Gap& gap, const Matrix& y, const Matrix& x, const Matrix& w, int64_t row) {
  for (int64_t o = 0; o < w.rows; ++o) {
    double sum = 0;
    for (int64_t i = 0; i < w.columns; ++i) sum += x.at(row, i) * w.at(o, i);
    gap.add(y.at(row, o), sum);
  }
}
void judge(Gap& gap, const Matrix& have, int64_t row, const std::vector<double>& want) {
  for (size_t c = 0; c < want.size(); ++c) gap.add(have.at(row, int64_t(c)), want[c]);
}

// The gradients of rows [first, end), whose weights are w: some rows of dx, some of dw, which was zero.
void judge_gradients(Gap& gap, const Matrix& dx, const Matrix& dw, const Matrix& dy, const Matrix& x, const Matrix& w,
                     int64_t first, int64_t end) {
  for (int64_t i = 0; i < std::min(kSampled, end - first); ++i) {
    const int64_t row = first + sampled(i, end - first);
    std::vector<double> sums(size_t(w.columns));
    add_rows(sums, row_of(dy, row), w, 0);
    judge(gap, dx, row, sums);
  }
  for (int64_t i = 0; i < std::min(kSampled, w.rows); ++i) {
    std::vector<double> sums(size_t(w.columns));
    add_rows(sums, column_of(dy, sampled(i, w.rows), first, end), x, first);
    judge(gap, dw, sampled(i, w.rows), sums);
  }
}

}  // namespace

double error_of(Stream& stream, const Linear& op) {
  const Matrix y = matrix(stream, op.y), x = matrix(stream, op.x), w = matrix(stream, op.w.values);
  Gap gap;
  for (int64_t i = 0; i < std::min(kSampled, y.rows); ++i) judge_output(gap, y, x, w, sampled(i, y.rows));
  return gap.relative();
}

double error_of(Stream& stream, const LinearBackward& op) {
  Gap gap;
  judge_gradients(gap, matrix(stream, op.dx), matrix(stream, op.dw), matrix(stream, op.dy, true), matrix(stream, op.x),
                  matrix(stream, op.w.values), 0, op.x.dim(0));
  return gap.relative();
}

double error_of(Stream& stream, const ExpertLinear& op) {
  const Matrix y = matrix(stream, op.y), x = matrix(stream, op.x);
  const std::vector<int32_t> begin = download<int32_t>(stream, op.expert_begin);
  Gap gap;
  for (int64_t e = 0; e + 1 < op.expert_begin.dim(0); ++e) {
    const int64_t first = begin[size_t(e)], rows = begin[size_t(e) + 1] - first;
    const Matrix w = matrix(stream, op.w.values.at(e));
    for (int64_t i = 0; i < std::min<int64_t>(1, rows); ++i) judge_output(gap, y, x, w, first + sampled(i, rows));
  }
  return gap.relative();
}

double error_of(Stream& stream, const ExpertLinearBackward& op) {
  const Matrix dx = matrix(stream, op.dx), dy = matrix(stream, op.dy), x = matrix(stream, op.x);
  const std::vector<int32_t> begin = download<int32_t>(stream, op.expert_begin);
  Gap gap;
  for (const int64_t e : {int64_t(0), op.expert_begin.dim(0) - 2})
    judge_gradients(gap, dx, matrix(stream, op.dw.at(e)), dy, x, matrix(stream, op.w.values.at(e)), begin[size_t(e)],
                    begin[size_t(e) + 1]);
  return gap.relative();
}

}  // namespace fulgur::bench
