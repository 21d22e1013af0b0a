#include <algorithm>
#include <cmath>

#include "bench/cuda/gap.h"
#include "bench/cuda/kernels.h"
#include "bench/cuda/samples.h"
#include "device/transfer.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kSampled = 16;  // rows

// One head's matrix of f32 rows, computed with in f64.
struct Matrix {
  std::vector<float> values;
  int64_t width;
  const float* row(int64_t i) const { return values.data() + i * width; }
};

double dot(const float* a, const float* b, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += double(a[d]) * double(b[d]);
  return sum;
}

void add(std::vector<double>& to, double factor, const float* row) {
  for (size_t d = 0; d < to.size(); ++d) to[d] += factor * double(row[d]);
}

void add(Gap& gap, const float* have, const std::vector<double>& want) {
  for (size_t d = 0; d < want.size(); ++d) gap.add(double(have[d]), want[d]);
}

Matrix head_of(Stream& stream, const Tensor& t, int64_t head) {
  return {elements_of(stream, t.slice(1, head, head + 1)), t.dim(2)};
}

// The keys or values (part 0 or 1) of a sequence's first KV head, gathered from its pages.
Matrix paged(Stream& stream, const SoftmaxAttention& op, int64_t sequence, int part) {
  const std::vector<int32_t> table = download<int32_t>(stream, op.page_table.rows(sequence, sequence + 1));
  Matrix matrix{{}, op.q.dim(2)};
  for (const int32_t page : table) {
    const std::vector<float> rows = elements_of(stream, op.kv_pages.at(page).at(part).at(0));
    matrix.values.insert(matrix.values.end(), rows.begin(), rows.end());
  }
  return matrix;
}

// Weights of the keys 0 to i for a query: softmax of its scores.
std::vector<double> weights_of(const float* query, const Matrix& k, int64_t i) {
  const double scale = 1 / std::sqrt(double(k.width));
  std::vector<double> weights;
  for (int64_t j = 0; j <= i; ++j) weights.push_back(scale * dot(query, k.row(j), k.width));
  const double most = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& w : weights) sum += w = std::exp(w - most);
  for (double& w : weights) w /= sum;
  return weights;
}

std::vector<double> output_of(const std::vector<double>& weights, const Matrix& v) {
  std::vector<double> o(size_t(v.width));
  for (size_t j = 0; j < weights.size(); ++j) add(o, weights[j], v.row(int64_t(j)));
  return o;
}

std::vector<int64_t> sampled_rows(int64_t rows) {
  std::vector<int64_t> sampled;
  for (int64_t s = 1; s <= std::min(kSampled, rows); ++s) sampled.push_back(rows * s / std::min(kSampled, rows) - 1);
  return sampled;
}

// What the gradients of a KV head and its group's query heads are made of.
struct Group {
  std::vector<Matrix> q, d_o, o, dq;
  Matrix k, v, dk, dv;
  std::vector<std::vector<float>> log_sum_exp;  // [query head][row]
  double scale;

  double weight(size_t h, int64_t i, int64_t j) const {
    return std::exp(scale * dot(q[h].row(i), k.row(j), k.width) - double(log_sum_exp[h][size_t(i)]));
  }
  // Of a score's gradient, before the scale.
  double flow(size_t h, int64_t i, int64_t j, double across) const {
    return weight(h, i, j) * (dot(d_o[h].row(i), v.row(j), v.width) - across);
  }
  double across(size_t h, int64_t i) const { return dot(d_o[h].row(i), o[h].row(i), v.width); }
};

Group group_of(Stream& stream, const SoftmaxAttentionBackward& op) {
  Group g{.q = {},
          .d_o = {},
          .o = {},
          .dq = {},
          .k = head_of(stream, op.k, 0),
          .v = head_of(stream, op.v, 0),
          .dk = head_of(stream, op.dk, 0),
          .dv = head_of(stream, op.dv, 0),
          .log_sum_exp = {},
          .scale = 1 / std::sqrt(double(op.q.dim(2)))};
  for (int64_t h = 0; h < op.q.dim(1) / op.k.dim(1); ++h) {
    g.q.push_back(head_of(stream, op.q, h)), g.d_o.push_back(head_of(stream, op.d_o, h));
    g.o.push_back(head_of(stream, op.o, h)), g.dq.push_back(head_of(stream, op.dq, h));
    g.log_sum_exp.push_back(elements_of(stream, op.log_sum_exp.rows(h, h + 1)));
  }
  return g;
}

}  // namespace

double error_of(Stream& stream, const SoftmaxAttention& op) {
  const int64_t sequences = op.row_begin.dim(0) - 1, rows = op.q.dim(0) / sequences, first = op.q.dim(0) - rows;
  const Matrix k = op.k ? head_of(stream, op.k.rows(first, first + rows), 0) : paged(stream, op, sequences - 1, 0);
  const Matrix v = op.v ? head_of(stream, op.v.rows(first, first + rows), 0) : paged(stream, op, sequences - 1, 1);
  const Matrix q = head_of(stream, op.q.rows(first, first + rows), 0);
  const Matrix o = head_of(stream, op.o.rows(first, first + rows), 0);
  Gap gap;
  for (const int64_t i : sampled_rows(rows)) {
    const int64_t position = download<int64_t>(stream, op.positions.rows(first + i, first + i + 1))[0];
    add(gap, o.row(i), output_of(weights_of(q.row(i), k, position), v));
  }
  return gap.relative();
}

double error_of(Stream& stream, const SoftmaxAttentionBackward& op) {
  const Group g = group_of(stream, op);
  const int64_t rows = op.q.dim(0);
  Gap gap;
  for (const int64_t i : sampled_rows(rows)) {
    std::vector<double> dq(size_t(g.k.width)), dk(dq.size()), dv(dq.size());
    const double across = g.across(0, i);
    for (int64_t j = 0; j <= i; ++j) add(dq, g.scale * g.flow(0, i, j, across), g.k.row(j));
    for (size_t h = 0; h < g.q.size(); ++h)
      for (int64_t later = i; later < rows; ++later) {
        add(dk, g.scale * g.flow(h, later, i, g.across(h, later)), g.q[h].row(later));
        add(dv, g.weight(h, later, i), g.d_o[h].row(later));
      }
    add(gap, g.dq[0].row(i), dq), add(gap, g.dk.row(i), dk), add(gap, g.dv.row(i), dv);
  }
  return gap.relative();
}

}  // namespace fulgur::bench
