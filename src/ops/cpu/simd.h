// Row primitives that the CPU twins share, in 16 lanes on every instruction set: equal bits on all of them.
//
// Reductions: lane j of 16 takes elements j, j + 16, ...; then lane j adds lane j + 8, + 4, + 2, + 1. No product is
// contracted into a sum. exp is our own. Rows are stored as T (double, float, bf16) and computed in Wide<T>; what is
// stored is rounded once. x and y may be the same row; n is any length.
#pragma once
#include <cstdint>
#include <type_traits>

#include "base/tensor.h"
#include "ops/cpu/simd_table.h"
#include "ops/weight.h"

namespace fulgur::cpu {

const RowTables& row_tables();

// bf16 is its bits to the tables.
template <class T>
using Bits = std::conditional_t<std::is_same_v<T, bf16>, uint16_t, T>;
template <class T>
T* bits(T* x) {
  return x;
}
inline uint16_t* bits(bf16* x) { return reinterpret_cast<uint16_t*>(x); }
inline const uint16_t* bits(const bf16* x) { return reinterpret_cast<const uint16_t*>(x); }

template <class T>
const WideTable<T>& wide_table() {
  if constexpr (std::is_same_v<T, float>) {
    return row_tables().f32;
  } else {
    static_assert(std::is_same_v<T, double>);
    return row_tables().f64;
  }
}

template <class T>
const RowTable<Bits<T>, Wide<T>>& row_table() {
  if constexpr (std::is_same_v<T, bf16>) {
    return row_tables().bf16_rows;
  } else if constexpr (std::is_same_v<T, float>) {
    return row_tables().f32_rows;
  } else {
    return row_tables().f64_rows;
  }
}

// Rows of a wide type, float or double.

template <class T>
T row_sum(const T* x, int64_t n) {
  return wide_table<T>().sum(x, n);
}
template <class T>  // -infinity for n = 0
T row_max(const T* x, int64_t n) {
  return wide_table<T>().max(x, n);
}
template <class T>  // y += a * x
void row_add_scaled(T* y, const T* x, T a, int64_t n) {
  wide_table<T>().add_scaled(y, x, a, n);
}
template <class T>  // y = exp(x)
void row_exp(T* y, const T* x, int64_t n) {
  wide_table<T>().exp(y, x, n);
}
template <class T>  // y = exp(x - shift), returns its row_sum
T row_exp_sum(T* y, const T* x, T shift, int64_t n) {
  return wide_table<T>().exp_sum(y, x, shift, n);
}
template <class T>  // the greatest of what each row's columns seen hold
void rows_max_seen(T* highest, const T* x, int64_t x_stride, const Seen& seen) {
  wide_table<T>().max_seen(highest, x, x_stride, seen);
}
// y_r = exp(a * y_r - shifts[r]) in the columns seen, zero in the others; sums: the row_sum of each, or null. a > 0.
template <class T>
void rows_exp_seen(T* y, int64_t y_stride, T a, const T* shifts, T* sums, const Seen& seen) {
  wide_table<T>().exp_seen(y, y_stride, a, shifts, sums, seen);
}
template <class T>
void row_adamw(T* master, T* first, T* second, const T* gradient, const AdamWStep<T>& step, T decay, int64_t n) {
  wide_table<T>().adamw(master, first, second, gradient, step, decay, n);
}

// Stored rows.

template <class T>  // sum of x * y
Wide<T> row_dot(const T* x, const T* y, int64_t n) {
  return row_table<T>().dot(bits(x), bits(y), n);
}
template <class T>  // sum of (x * y) * z
Wide<T> row_dot3(const T* x, const T* y, const T* z, int64_t n) {
  return row_table<T>().dot3(bits(x), bits(y), bits(z), n);
}
template <class T>  // sum of ((x * sigmoid(gate)) * y) * z
Wide<T> row_gated_dot3(const T* x, const T* gate, const T* y, const T* z, int64_t n) {
  return row_table<T>().gated_dot3(bits(x), bits(gate), bits(y), bits(z), n);
}
template <class T>  // y += x
void row_add(Wide<T>* y, const T* x, int64_t n) {
  row_table<T>().add(y, bits(x), n);
}
template <class T>  // y = a * x
void row_scale(T* y, const T* x, Wide<T> a, int64_t n) {
  row_table<T>().scale(bits(y), bits(x), a, n);
}
template <class T>  // y = alpha * a + beta * b
void row_blend(T* y, const T* a, Wide<T> alpha, const T* b, Wide<T> beta, int64_t n) {
  row_table<T>().blend(bits(y), bits(a), alpha, bits(b), beta, n);
}
template <class T>  // y = (a * x) * b
void row_scale_mul(T* y, const T* x, Wide<T> a, const T* b, int64_t n) {
  row_table<T>().scale_mul(bits(y), bits(x), a, bits(b), n);
}
template <class T>  // y = ((a * x) * b) * sigmoid(gate)
void row_gated_scale_mul(T* y, const T* x, Wide<T> a, const T* b, const T* gate, int64_t n) {
  row_table<T>().gated_scale_mul(bits(y), bits(x), a, bits(b), bits(gate), n);
}
// With flow = dy * sigmoid(gate) and p = flow * (inverse_rms * x): dweight += p, dgate = p * weight - (p * weight) *
// sigmoid(gate), dx = inverse_rms * (flow * weight) - pull * x.
template <class T>
void row_gated_backward(const GatedGradient<T, Wide<T>>& g, int64_t n) {
  row_table<T>().gated_backward({.dx = bits(g.dx),
                                 .dgate = bits(g.dgate),
                                 .dweight = g.dweight,
                                 .dy = bits(g.dy),
                                 .x = bits(g.x),
                                 .gate = bits(g.gate),
                                 .weight = bits(g.weight),
                                 .inverse_rms = g.inverse_rms,
                                 .pull = g.pull},
                                n);
}
template <class T>  // y = alpha * (a * b) + beta * c
void row_blend_mul(T* y, const T* a, const T* b, Wide<T> alpha, const T* c, Wide<T> beta, int64_t n) {
  row_table<T>().blend_mul(bits(y), bits(a), bits(b), alpha, bits(c), beta, n);
}
template <class T>  // y = 0 + x[rows[0]] + x[rows[1]] + ..., where x[r] begins at x + r * x_stride
void row_gather(T* y, const T* x, int64_t x_stride, const int64_t* rows, int64_t count, int64_t n) {
  row_table<T>().gather(bits(y), bits(x), x_stride, rows, count, n);
}
template <class T>  // y = factors[0] * x[rows[0]] + ..., without the rows below 0; 0 where none is left
void row_combine(T* y, const T* x, int64_t x_stride, const int32_t* rows, const Wide<T>* factors, int64_t count,
                 int64_t n) {
  row_table<T>().combine(bits(y), bits(x), x_stride, rows, factors, count, n);
}
template <class T>  // y = silu(gate) * up
void row_swiglu(T* y, const T* gate, const T* up, int64_t n) {
  row_table<T>().swiglu(bits(y), bits(gate), bits(up), n);
}
template <class T>
void row_swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
  row_table<T>().swiglu_backward(bits(dgate), bits(dup), bits(dy), bits(gate), bits(up), n);
}
template <class T>  // (a cos - b sin, b cos + a sin); a and b lie apart
void row_turn(T* a, T* b, const Wide<T>* cosine, const Wide<T>* sine, int64_t n) {
  row_table<T>().turn(bits(a), bits(b), cosine, sine, n);
}
inline void row_widen(float* y, const bf16* x, int64_t n) {  // y = x; the rows lie apart
  row_tables().widen(y, bits(x), n);
}
inline void row_narrow(bf16* y, const float* x, int64_t n) {  // y = bf16(x), to nearest even; the rows lie apart
  row_tables().narrow(bits(y), x, n);
}
// y = `dequantised` of a row's numbers (ops/weight.h) from the first column of a scale on; the rows lie apart.
template <class T>
void row_dequantise(T* y, const int8_t* x, const float* scales, int64_t n) {
  for (int64_t at = 0; at < n; at += kScaleColumns, ++scales) {
    const int64_t count = n - at < kScaleColumns ? n - at : kScaleColumns;
    if constexpr (std::is_same_v<T, bf16>)
      row_tables().dequantise_bf16(bits(y + at), x + at, float(bf16(*scales)), count);
    else if constexpr (std::is_same_v<T, float>) row_tables().dequantise(y + at, x + at, *scales, count);
    else row_tables().dequantise_wide(y + at, x + at, double(*scales), count);
  }
}
// y = (x - greatest) / temperature, but at least -1000, where exp is 0; 0 where x is the greatest, infinite too.
inline void row_tempered(double* y, const float* x, float greatest, double temperature, int64_t n) {
  row_tables().tempered(y, x, greatest, temperature, n);
}

// Rows of a block at once, at their strides; bits are those of one row after the other.

template <class T>  // y = x / (1 + exp(-x))
void rows_silu(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t n) {
  row_table<T>().silu(bits(y), y_stride, bits(x), x_stride, rows, n);
}
template <class T>  // dx = dy * silu'(x)
void rows_silu_backward(T* dx, int64_t dx_stride, const Wide<T>* dy, int64_t dy_stride, const T* x, int64_t x_stride,
                        int64_t rows, int64_t n) {
  row_table<T>().silu_backward(bits(dx), dx_stride, dy, dy_stride, bits(x), x_stride, rows, n);
}
template <class T>  // y_r = factors[r * step] * x_r
void rows_scale(T* y, int64_t y_stride, const T* x, int64_t x_stride, const Wide<T>* factors, int64_t step,
                int64_t rows, int64_t n) {
  row_table<T>().scale_rows(bits(y), y_stride, bits(x), x_stride, factors, step, rows, n);
}
// With i = first + r * step: y_r[j] = x_r[j] * factors[j - i] up to the diagonal j = i, and zero above it. Of factors
// fifteen more are read.
template <class T>
void rows_triangle(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, const Wide<T>* factors, int64_t first,
                   int64_t step, int64_t rows, int64_t n) {
  row_table<T>().triangle(bits(y), y_stride, x, x_stride, factors, first, step, rows, n);
}
template <class T>  // y_r = (x_r - shifts[r]) * b_r
void rows_sub_mul(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, const Wide<T>* shifts, const Wide<T>* b,
                  int64_t b_stride, int64_t rows, int64_t n) {
  row_table<T>().sub_mul(bits(y), y_stride, x, x_stride, shifts, b, b_stride, rows, n);
}
template <class T>  // y = 0 + x, so a zero has no sign; the rows lie apart
void rows_store(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, int64_t rows, int64_t n) {
  row_table<T>().store(bits(y), y_stride, x, x_stride, rows, n);
}
template <class T>  // y += factors[r] * (x_r * b_r), row after row
void rows_add_products(Wide<T>* y, const T* x, int64_t x_stride, const Wide<T>* factors, const T* b, int64_t b_stride,
                       int64_t rows, int64_t n) {
  row_table<T>().add_products(y, bits(x), x_stride, factors, bits(b), b_stride, rows, n);
}

}  // namespace fulgur::cpu
