// Row primitives that the CPU twins share, in 16 lanes on every instruction set: equal bits on all of them.
//
// Reductions: lane j of 16 takes elements j, j + 16, ...; then lane j adds lane j + 8, + 4, + 2, + 1. No product is
// contracted into a sum. exp is our own. T: float, double; rows of bf16 are widened and narrowed piece by piece
// (rows.h). x and y may be the same row; n is any length.
#pragma once
#include <cstdint>

#include "base/tensor.h"
#include "ops/cpu/simd_table.h"

namespace fulgur::cpu {

template <class T>
T row_sum(const T* x, int64_t n);
template <class T>
T row_max(const T* x, int64_t n);  // -infinity for n = 0
template <class T>
T row_dot(const T* x, const T* y, int64_t n);  // sum of x * y
template <class T>
T row_dot3(const T* x, const T* y, const T* z, int64_t n);  // sum of (x * y) * z
template <class T>
void row_scale(T* y, const T* x, T a, int64_t n);  // y = a * x
template <class T>
void row_add(T* y, const T* x, int64_t n);  // y += x
template <class T>
void row_add_scaled(T* y, const T* x, T a, int64_t n);  // y += a * x (product rounded first)
template <class T>
void row_blend(T* y, const T* a, T alpha, const T* b, T beta, int64_t n);  // alpha * a + beta * b
template <class T>
void row_mul(T* y, const T* a, const T* b, int64_t n);  // y = a * b
template <class T>
void row_scale_mul(T* y, const T* x, T a, const T* b, int64_t n);  // y = (a * x) * b
template <class T>
void row_add_scaled_mul(T* y, const T* x, T a, const T* b, int64_t n);  // y += a * (x * b)
template <class T>
void row_blend_mul(T* y, const T* a, const T* b, T alpha, const T* c, T beta, int64_t n);  // alpha * (a * b) + beta * c
template <class T>
void row_exp(T* y, const T* x, int64_t n);  // y = exp(x)
template <class T>
T row_exp_sum(T* y, const T* x, T shift, int64_t n);  // y = exp(x - shift), returns its row_sum
template <class T>
void row_sigmoid(T* y, const T* x, int64_t n);  // y = 1 / (1 + exp(-x))
template <class T>
void row_swiglu(T* y, const T* gate, const T* up, int64_t n);  // y = silu(gate) * up
template <class T>
void row_swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n);
template <class T>
void row_turn(T* a, T* b, const T* cosine, const T* sine, int64_t n);  // (a cos - b sin, b cos + a sin); a, b apart
template <class T>
void row_adamw(T* master, T* first, T* second, const T* gradient, const AdamWStep<T>& step, T decay, int64_t n);
void row_widen(float* y, const bf16* x, int64_t n);   // y = x; the rows lie apart
void row_narrow(bf16* y, const float* x, int64_t n);  // y = bf16(x), to nearest even; the rows lie apart

// Rows of a block at once, stored as T (double, float, bf16) at their strides and computed in Wide<T>; bits are those
// of one row after the other. y and x may be the same rows.
template <class T>  // y = x / (1 + exp(-x))
void rows_silu(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t n);
template <class T>  // dx = dy * silu'(x)
void rows_silu_backward(T* dx, int64_t dx_stride, const Wide<T>* dy, int64_t dy_stride, const T* x, int64_t x_stride,
                        int64_t rows, int64_t n);
template <class T>  // y_r = factors[r * step] * x_r
void rows_scale(T* y, int64_t y_stride, const T* x, int64_t x_stride, const Wide<T>* factors, int64_t step,
                int64_t rows, int64_t n);
// With i = first + r * step: y_r[j] = x_r[j] * factors[j - i] up to the diagonal j = i, and zero above it.
template <class T>
void rows_triangle(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, const Wide<T>* factors, int64_t first,
                   int64_t step, int64_t rows, int64_t n);
template <class T>  // y = 0 + x, so a zero has no sign, rounded to T; the rows lie apart
void rows_store(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, int64_t rows, int64_t n);

}  // namespace fulgur::cpu
