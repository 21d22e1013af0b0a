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
  const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate),
                squares = rows_of<T>(op.squares);
  const T* weight = op.weight.elements<T>();
  T* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<T>() : nullptr;
  for_rows(threads, x.count, x.width, [&](int64_t row) {
    const T inverse = 1 / std::sqrt(sum_of_heads(squares, row) / T(op.whole_width) + T(op.eps));
    if (inverse_rms) inverse_rms[row] = inverse;
    T open[kPieceColumns];  // sigmoid(gate)
    for (int64_t begin = 0; begin < x.width; begin += kPieceColumns) {
      const int64_t n = std::min(kPieceColumns, x.width - begin);
      T* out = y[row] + begin;
      row_sigmoid<T>(open, gate[row] + begin, n);
      row_scale<T>(out, x[row] + begin, inverse, n);
      row_mul<T>(out, out, weight + begin, n);
      row_mul<T>(out, out, open, n);
    }
  });
}

template <class T>
void products(Threads& threads, const GatedRmsNormProducts& op) {
  const Rows<T> dy = rows_of<T>(op.dy), x = rows_of<T>(op.x), gate = rows_of<T>(op.gate);
  const Rows<T> sums = rows_of<T>(op.products);
  const T* weight = op.weight.elements<T>();
  const int64_t head_width = x.width / sums.count;
  const int64_t grain = std::max<int64_t>(1, (x.count + 4 * threads.count() - 1) / (4 * threads.count()));
  std::vector<T> scratch(size_t((x.count + grain - 1) / grain * head_width));  // one head's columns per piece
  threads.for_ranges(x.count, grain, [&](int64_t first, int64_t last) {
    T* opened = scratch.data() + first / grain * head_width;  // dy * sigmoid(gate)
    for (int64_t row = first; row < last; ++row) {
      for (int64_t head = 0; head < sums.count; ++head) {
        const int64_t begin = head * head_width;
        row_sigmoid<T>(opened, gate[row] + begin, head_width);
        row_mul<T>(opened, dy[row] + begin, opened, head_width);
        sums[head][row] = row_dot3<T>(opened, weight + begin, x[row] + begin, head_width);
      }
    }
  });
}

// Columns [begin, end) of one row; `pull` says how strongly it is drawn back along x.
template <class T>
void backward_row(const GatedRmsNormBackward& op, int64_t row, int64_t begin, int64_t end, T pull) {
  const auto at = [row, begin](const Tensor& t) { return rows_of<T>(t)[row] + begin; };
  const T *x = at(op.x), *weight = op.weight.elements<T>() + begin, inverse = op.inverse_rms.elements<T>()[row];
  const int64_t n = end - begin;
  T open[kPieceColumns], flow[kPieceColumns], normal[kPieceColumns], product[kPieceColumns];
  row_sigmoid<T>(open, at(op.gate), n);
  row_mul<T>(flow, at(op.dy), open, n);
  row_scale<T>(normal, x, inverse, n);
  row_mul<T>(product, flow, normal, n);
  row_add<T>(op.dweight.elements<T>() + begin, product, n);
  row_mul<T>(product, product, weight, n);
  row_mul<T>(normal, product, open, n);
  row_blend<T>(at(op.dgate), product, T(1), normal, T(-1), n);
  row_mul<T>(flow, flow, weight, n);
  row_blend<T>(at(op.dx), flow, inverse, x, -pull, n);
}

// Threads divide the columns: with the products given, no column needs another one.
template <class T>
void backward(Threads& threads, const GatedRmsNormBackward& op) {
  const Rows<T> sums = rows_of<T>(op.products);
  const T* inverse_rms = op.inverse_rms.elements<T>();
  const int64_t rows = op.x.dim(0);
  std::vector<T> pull(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    const T inverse = inverse_rms[row];
    pull[size_t(row)] = sum_of_heads(sums, row) / T(op.whole_width) * inverse * inverse * inverse;
  }
  for_columns(threads, op.x.dim(1), [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) backward_row<T>(op, row, begin, end, pull[size_t(row)]);
  });
}

}  // namespace

void gated_rms_norm(Stream& stream, const GatedRmsNorm& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { forward<T>(stream.threads(), op); });
}

void gated_rms_norm_products(Stream& stream, const GatedRmsNormProducts& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { products<T>(stream.threads(), op); });
}

void gated_rms_norm_backward(Stream& stream, const GatedRmsNormBackward& op) {
  with_element_type<double, float>(op.x.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
