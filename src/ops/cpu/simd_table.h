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

template <class T>
struct RowTable {
  T (*sum)(const T* x, int64_t n);
  T (*max)(const T* x, int64_t n);
  T (*dot)(const T* x, const T* y, int64_t n);
  T (*dot3)(const T* x, const T* y, const T* z, int64_t n);
  void (*scale)(T* y, const T* x, T a, int64_t n);
  void (*add)(T* y, const T* x, int64_t n);
  void (*add_scaled)(T* y, const T* x, T a, int64_t n);
  void (*blend)(T* y, const T* a, T alpha, const T* b, T beta, int64_t n);
  void (*mul)(T* y, const T* a, const T* b, int64_t n);
  void (*scale_mul)(T* y, const T* x, T a, const T* b, int64_t n);
  void (*add_scaled_mul)(T* y, const T* x, T a, const T* b, int64_t n);
  void (*blend_mul)(T* y, const T* a, const T* b, T alpha, const T* c, T beta, int64_t n);
  void (*exp)(T* y, const T* x, int64_t n);
  T (*exp_sum)(T* y, const T* x, T shift, int64_t n);
  void (*silu)(T* y, const T* x, int64_t n);
  void (*silu_backward)(T* dx, const T* dy, const T* x, int64_t n);
  void (*sigmoid)(T* y, const T* x, int64_t n);
  void (*swiglu)(T* y, const T* gate, const T* up, int64_t n);
  void (*swiglu_backward)(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n);
  void (*turn)(T* a, T* b, const T* cosine, const T* sine, int64_t n);
  void (*adamw)(T* master, T* first, T* second, const T* gradient, const AdamWStep<T>& step, T decay, int64_t n);
};

// Several rows at once (simd.h): rows of Stored numbers (bf16 by their bits) that are computed in Wide.
template <class Stored, class Wide>
struct BlockTable {
  void (*silu)(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, int64_t rows, int64_t n);
  void (*silu_backward)(Stored* dx, int64_t dx_stride, const Wide* dy, int64_t dy_stride, const Stored* x,
                        int64_t x_stride, int64_t rows, int64_t n);
  void (*scale)(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, const Wide* factors, int64_t step,
                int64_t rows, int64_t n);
  void (*triangle)(Stored* y, int64_t y_stride, const Wide* x, int64_t x_stride, const Wide* factors, int64_t first,
                   int64_t step, int64_t rows, int64_t n);
  void (*store)(Stored* y, int64_t y_stride, const Wide* x, int64_t x_stride, int64_t rows, int64_t n);
};

struct RowTables {
  RowTable<float> f32;
  RowTable<double> f64;
  BlockTable<float, float> f32_blocks;
  BlockTable<double, double> f64_blocks;
  BlockTable<uint16_t, float> bf16_blocks;
  void (*widen)(float* y, const uint16_t* x, int64_t n);   // from the bits of bf16
  void (*narrow)(uint16_t* y, const float* x, int64_t n);  // to the bits of bf16
};

// Null where the file was not compiled for its instruction set.
const RowTables* row_tables_generic();
const RowTables* row_tables_avx2();
const RowTables* row_tables_avx512();

}  // namespace fulgur::cpu
