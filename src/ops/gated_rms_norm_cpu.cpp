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
    W open[kPieceColumns];  // sigmoid(gate)
    for (int64_t begin = 0; begin < x.width; begin += kPieceColumns) {
      const int64_t n = std::min(kPieceColumns, x.width - begin);
      const Widened<T> closed(gate[row] + begin, n), in(x[row] + begin, n), scale(weight + begin, n);
      Rounded<T> out(y[row] + begin, n);
      row_sigmoid<W>(open, closed, n);
      row_scale_mul<W>(out, in, inverse, scale, n);
      row_mul<W>(out, out, open, n);
    }
  });
}

template <class T>
void products(Threads& threads, const GatedRmsNormProducts& op) {
  using W = Wide<T>;
  const Rows<T> dy = rows_of<T>(op.dy), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate);
  const Rows<W> sums = rows_of<W>(op.products);
  const T* weight = op.weight.elements<T>();
  const int64_t head_width = x.width / sums.count;
  const int64_t grain = std::max<int64_t>(1, (x.count + 4 * threads.count() - 1) / (4 * threads.count()));
  std::vector<W> scratch(size_t((x.count + grain - 1) / grain * head_width));  // one head's columns per piece
  threads.for_ranges(x.count, grain, [&](int64_t first, int64_t last) {
    W* opened = scratch.data() + first / grain * head_width;  // dy * sigmoid(gate)
    for (int64_t row = first; row < last; ++row) {
      for (int64_t head = 0; head < sums.count; ++head) {
        W sum = 0;
        for_pieces<T>(head * head_width, (head + 1) * head_width, [&](int64_t at, int64_t n) {
          const Widened<T> flow(dy[row] + at, n), closed(gate[row] + at, n), scale(weight + at, n), in(x[row] + at, n);
          row_sigmoid<W>(opened, closed, n);
          row_mul<W>(opened, flow, opened, n);
          sum += row_dot3<W>(opened, scale, in, n);
        });
        sums[head][row] = sum;
      }
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
    const Widened<T> scale(weight + begin, n);
    W open[kPieceColumns], flow[kPieceColumns], normal[kPieceColumns], product[kPieceColumns];
    for (int64_t row = 0; row < x.count; ++row) {
      const Widened<T> out(dy[row] + begin, n), in(x[row] + begin, n), closed(gate[row] + begin, n);
      Rounded<T> d_in(dx[row] + begin, n), d_closed(dgate[row] + begin, n);
      row_sigmoid<W>(open, closed, n);
      row_mul<W>(flow, out, open, n);
      row_scale<W>(normal, in, inverse_rms[row], n);
      row_mul<W>(product, flow, normal, n);
      row_add<W>(dweight + begin, product, n);
      row_mul<W>(product, product, scale, n);
      row_mul<W>(normal, product, open, n);
      row_blend<W>(d_closed, product, W(1), normal, W(-1), n);
      row_blend_mul<W>(d_in, flow, scale, inverse_rms[row], in, -pull[size_t(row)], n);
    }
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
