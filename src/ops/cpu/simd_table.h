// The row primitives of simd.h as a table of functions, one table per instruction set.
// Files compiled for one instruction set include nothing else of ours: an inline function emitted there could be the
// copy that the linker picks for everybody.
#pragma once
#include <cstdint>

namespace fulgur::cpu {

// The constants of one step of AdamW (ops/adamw.h).
template <class T>
struct AdamWStep {
  T clip, keep1, take1, keep2, take2, unbias1, unbias2, rate, eps;
};

// The part of a block's rows that is looked at: columns up to first + row % period, of n.
struct Seen {
  int64_t first, period, rows, n;
};

// A row's part of the gated norm's gradient (simd.h: row_gated_backward).
template <class Stored, class Wide>
struct GatedGradient {
  Stored *dx, *dgate;
  Wide* dweight;
  const Stored *dy, *x, *gate, *weight;
  Wide inverse_rms, pull;
};

// Rows in the type that they are computed in.
template <class T>
struct WideTable {
  T (*sum)(const T* x, int64_t n);
  T (*max)(const T* x, int64_t n);
  void (*add_scaled)(T* y, const T* x, T a, int64_t n);
  void (*exp)(T* y, const T* x, int64_t n);
  T (*exp_sum)(T* y, const T* x, T shift, int64_t n);
  // Several rows at once.
  void (*max_seen)(T* highest, const T* x, int64_t x_stride, const Seen& seen);
  void (*exp_seen)(T* y, int64_t y_stride, T a, const T* shifts, T* sums, const Seen& seen);
  void (*adamw)(T* master, T* first, T* second, const T* gradient, const AdamWStep<T>& step, T decay, int64_t n);
};

// Rows of Stored numbers (bf16 by their bits) that are computed in Wide.
template <class Stored, class Wide>
struct RowTable {
  Wide (*dot)(const Stored* x, const Stored* y, int64_t n);
  Wide (*dot3)(const Stored* x, const Stored* y, const Stored* z, int64_t n);
  Wide (*gated_dot3)(const Stored* x, const Stored* gate, const Stored* y, const Stored* z, int64_t n);
  void (*add)(Wide* y, const Stored* x, int64_t n);
  void (*scale)(Stored* y, const Stored* x, Wide a, int64_t n);
  void (*blend)(Stored* y, const Stored* a, Wide alpha, const Stored* b, Wide beta, int64_t n);
  void (*scale_mul)(Stored* y, const Stored* x, Wide a, const Stored* b, int64_t n);
  void (*gated_scale_mul)(Stored* y, const Stored* x, Wide a, const Stored* b, const Stored* gate, int64_t n);
  void (*gated_backward)(const GatedGradient<Stored, Wide>& row, int64_t n);
  void (*blend_mul)(Stored* y, const Stored* a, const Stored* b, Wide alpha, const Stored* c, Wide beta, int64_t n);
  void (*gather)(Stored* y, const Stored* x, int64_t x_stride, const int64_t* rows, int64_t count, int64_t n);
  void (*combine)(Stored* y, const Stored* x, int64_t x_stride, const int32_t* rows, const Wide* factors, int64_t count,
                  int64_t n);
  void (*swiglu)(Stored* y, const Stored* gate, const Stored* up, int64_t n);
  void (*swiglu_backward)(Stored* dgate, Stored* dup, const Stored* dy, const Stored* gate, const Stored* up,
                          int64_t n);
  void (*turn)(Stored* a, Stored* b, const Wide* cosine, const Wide* sine, int64_t n);
  // Several rows at once.
  void (*silu)(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, int64_t rows, int64_t n);
  void (*silu_backward)(Stored* dx, int64_t dx_stride, const Wide* dy, int64_t dy_stride, const Stored* x,
                        int64_t x_stride, int64_t rows, int64_t n);
  void (*scale_rows)(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, const Wide* factors, int64_t step,
                     int64_t rows, int64_t n);
  void (*triangle)(Stored* y, int64_t y_stride, const Wide* x, int64_t x_stride, const Wide* factors, int64_t first,
                   int64_t step, int64_t rows, int64_t n);
  void (*sub_mul)(Stored* y, int64_t y_stride, const Wide* x, int64_t x_stride, const Wide* shifts, const Wide* b,
                  int64_t b_stride, int64_t rows, int64_t n);
  void (*store)(Stored* y, int64_t y_stride, const Wide* x, int64_t x_stride, int64_t rows, int64_t n);
  void (*add_products)(Wide* y, const Stored* x, int64_t x_stride, const Wide* factors, const Stored* b,
                       int64_t b_stride, int64_t rows, int64_t n);
};

struct RowTables {
  WideTable<float> f32;
  WideTable<double> f64;
  RowTable<float, float> f32_rows;
  RowTable<double, double> f64_rows;
  RowTable<uint16_t, float> bf16_rows;
  void (*widen)(float* y, const uint16_t* x, int64_t n);   // from the bits of bf16
  void (*narrow)(uint16_t* y, const float* x, int64_t n);  // to the bits of bf16
  // y = x * scale, rounded to y's type; n up to the columns of a scale. To the bits of bf16: scale is one of its
  // numbers.
  void (*dequantise)(float* y, const int8_t* x, float scale, int64_t n);
  void (*dequantise_wide)(double* y, const int8_t* x, double scale, int64_t n);
  void (*dequantise_bf16)(uint16_t* y, const int8_t* x, float scale, int64_t n);
  void (*tempered)(double* y, const float* x, float greatest, double temperature, int64_t n);
};

// Null where the file was not compiled for its instruction set.
const RowTables* row_tables_generic();
const RowTables* row_tables_avx2();
const RowTables* row_tables_avx512();

}  // namespace fulgur::cpu
