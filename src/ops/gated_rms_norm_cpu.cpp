// With s = sigmoid(gate), r = inverse rms and N = the whole width: y = ((x * r) * weight) * s, and backward
//   dx = r * dy * s * weight - x * r^3 * sum(products) / N,   dgate = p - p * s with p = dy * s * (x * r) * weight,
//   dweight += dy * s * x * r.
#include "ops/gated_rms_norm.h"

#include <cmath>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// The sum of one row over the heads of all ranks, in head order.
template <class T>
T sum_of_heads(const Rows<T>& heads, int64_t row) {
  T sum = 0;
  for (int64_t head = 0; head < heads.count; ++head) sum += heads[head][row];
  return sum;
}

template <class T>
void forward(Threads& threads, const GatedRmsNorm& op) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate);
  const Rows<W> squares = rows_of<W>(op.squares);
  const T* weight = op.weight.elements<T>();
  W* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<W>() : nullptr;
  for_rows(threads, x.count, x.width, [&](int64_t row) {
    const W inverse = 1 / std::sqrt(sum_of_heads(squares, row) / W(op.whole_width) + W(op.eps));
    if (inverse_rms) inverse_rms[row] = inverse;
    row_gated_scale_mul<T>(y[row], x[row], inverse, weight, gate[row], x.width);
  });
}

template <class T>
void products(Threads& threads, const GatedRmsNormProducts& op) {
  using W = Wide<T>;
  const Rows<T> dy = rows_of<T>(op.dy), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate);
  const Rows<W> sums = rows_of<W>(op.products);
  const T* weight = op.weight.elements<T>();
  const int64_t head_width = x.width / sums.count;
  for_rows(threads, x.count, x.width, [&](int64_t row) {
    for (int64_t head = 0; head < sums.count; ++head) {
      const int64_t at = head * head_width;
      sums[head][row] = row_gated_dot3<T>(dy[row] + at, gate[row] + at, weight + at, x[row] + at, head_width);
    }
  });
}

// How strongly each row is drawn back along x: sum(products) / N * r^3.
template <class W>
std::vector<W> pulls_of(const GatedRmsNormBackward& op) {
  const Rows<W> sums = rows_of<W>(op.products);
  const W* inverse_rms = op.inverse_rms.elements<W>();
  std::vector<W> pull(size_t(op.x.dim(0)));
  for (size_t row = 0; row < pull.size(); ++row) {
    const W inverse = inverse_rms[row];
    pull[row] = sum_of_heads(sums, int64_t(row)) / W(op.whole_width) * inverse * inverse * inverse;
  }
  return pull;
}

// Threads divide the columns: with the products given, no column needs another one.
template <class T>
void backward(Threads& threads, const GatedRmsNormBackward& op) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(op.dx), dgate = rows_of<T>(op.dgate);
  const Rows<T> dy = rows_of<T>(op.dy), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate);
  const T* weight = op.weight.elements<T>();
  const W* inverse_rms = op.inverse_rms.elements<W>();
  W* dweight = op.dweight.elements<W>();
  const std::vector<W> pull = pulls_of<W>(op);
  for_columns(threads, x.width, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    for (int64_t row = 0; row < x.count; ++row)
      row_gated_backward<T>({.dx = dx[row] + begin,
                             .dgate = dgate[row] + begin,
                             .dweight = dweight + begin,
                             .dy = dy[row] + begin,
                             .x = x[row] + begin,
                             .gate = gate[row] + begin,
                             .weight = weight + begin,
                             .inverse_rms = inverse_rms[row],
                             .pull = pull[size_t(row)]},
                            n);
  });
}

}  // namespace

void gated_rms_norm(Stream& stream, const GatedRmsNorm& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void gated_rms_norm_products(Stream& stream, const GatedRmsNormProducts& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { products<T>(stream.threads(), op); });
}

void gated_rms_norm_backward(Stream& stream, const GatedRmsNormBackward& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
