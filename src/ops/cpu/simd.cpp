#include "ops/cpu/simd.h"

#include <type_traits>

#include "ops/cpu/isa.h"
#include "ops/cpu/simd_table.h"

namespace fulgur::cpu {
namespace {

const RowTables& picked() {
  switch (isa()) {
    case Isa::amx:
    case Isa::avx512: return *row_tables_avx512();
    case Isa::avx2: return *row_tables_avx2();
    case Isa::generic: break;
  }
  return *row_tables_generic();
}

const RowTables& tables() {
  static const RowTables& kept = picked();
  return kept;
}

template <class T>
const RowTable<T>& rows() {
  if constexpr (std::is_same_v<T, float>) {
    return tables().f32;
  } else {
    return tables().f64;
  }
}

template <class T>
const auto& blocks() {
  if constexpr (std::is_same_v<T, bf16>) {
    return tables().bf16_blocks;
  } else if constexpr (std::is_same_v<T, float>) {
    return tables().f32_blocks;
  } else {
    return tables().f64_blocks;
  }
}

// bf16 is its bits to the tables.
template <class T>
T* bits(T* x) {
  return x;
}
uint16_t* bits(bf16* x) { return reinterpret_cast<uint16_t*>(x); }
const uint16_t* bits(const bf16* x) { return reinterpret_cast<const uint16_t*>(x); }

}  // namespace

template <class T>
T row_sum(const T* x, int64_t n) {
  return rows<T>().sum(x, n);
}
template <class T>
T row_max(const T* x, int64_t n) {
  return rows<T>().max(x, n);
}
template <class T>
T row_dot(const T* x, const T* y, int64_t n) {
  return rows<T>().dot(x, y, n);
}
template <class T>
T row_dot3(const T* x, const T* y, const T* z, int64_t n) {
  return rows<T>().dot3(x, y, z, n);
}
template <class T>
void row_scale(T* y, const T* x, T a, int64_t n) {
  rows<T>().scale(y, x, a, n);
}
template <class T>
void row_add(T* y, const T* x, int64_t n) {
  rows<T>().add(y, x, n);
}
template <class T>
void row_add_scaled(T* y, const T* x, T a, int64_t n) {
  rows<T>().add_scaled(y, x, a, n);
}
template <class T>
void row_blend(T* y, const T* a, T alpha, const T* b, T beta, int64_t n) {
  rows<T>().blend(y, a, alpha, b, beta, n);
}
template <class T>
void row_mul(T* y, const T* a, const T* b, int64_t n) {
  rows<T>().mul(y, a, b, n);
}
template <class T>
void row_scale_mul(T* y, const T* x, T a, const T* b, int64_t n) {
  rows<T>().scale_mul(y, x, a, b, n);
}
template <class T>
void row_add_scaled_mul(T* y, const T* x, T a, const T* b, int64_t n) {
  rows<T>().add_scaled_mul(y, x, a, b, n);
}
template <class T>
void row_blend_mul(T* y, const T* a, const T* b, T alpha, const T* c, T beta, int64_t n) {
  rows<T>().blend_mul(y, a, b, alpha, c, beta, n);
}
template <class T>
void row_exp(T* y, const T* x, int64_t n) {
  rows<T>().exp(y, x, n);
}
template <class T>
T row_exp_sum(T* y, const T* x, T shift, int64_t n) {
  return rows<T>().exp_sum(y, x, shift, n);
}
template <class T>
void row_sigmoid(T* y, const T* x, int64_t n) {
  rows<T>().sigmoid(y, x, n);
}
template <class T>
void row_swiglu(T* y, const T* gate, const T* up, int64_t n) {
  rows<T>().swiglu(y, gate, up, n);
}
template <class T>
void row_swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
  rows<T>().swiglu_backward(dgate, dup, dy, gate, up, n);
}
template <class T>
void row_turn(T* a, T* b, const T* cosine, const T* sine, int64_t n) {
  rows<T>().turn(a, b, cosine, sine, n);
}
template <class T>
void row_adamw(T* master, T* first, T* second, const T* gradient, const AdamWStep<T>& step, T decay, int64_t n) {
  rows<T>().adamw(master, first, second, gradient, step, decay, n);
}
void row_widen(float* y, const bf16* x, int64_t n) { tables().widen(y, reinterpret_cast<const uint16_t*>(x), n); }
void row_narrow(bf16* y, const float* x, int64_t n) { tables().narrow(reinterpret_cast<uint16_t*>(y), x, n); }

template <class T>
void rows_silu(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t n) {
  blocks<T>().silu(bits(y), y_stride, bits(x), x_stride, rows, n);
}
template <class T>
void rows_silu_backward(T* dx, int64_t dx_stride, const Wide<T>* dy, int64_t dy_stride, const T* x, int64_t x_stride,
                        int64_t rows, int64_t n) {
  blocks<T>().silu_backward(bits(dx), dx_stride, dy, dy_stride, bits(x), x_stride, rows, n);
}
template <class T>
void rows_scale(T* y, int64_t y_stride, const T* x, int64_t x_stride, const Wide<T>* factors, int64_t step,
                int64_t rows, int64_t n) {
  blocks<T>().scale(bits(y), y_stride, bits(x), x_stride, factors, step, rows, n);
}
template <class T>
void rows_triangle(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, const Wide<T>* factors, int64_t first,
                   int64_t step, int64_t rows, int64_t n) {
  blocks<T>().triangle(bits(y), y_stride, x, x_stride, factors, first, step, rows, n);
}
template <class T>
void rows_store(T* y, int64_t y_stride, const Wide<T>* x, int64_t x_stride, int64_t rows, int64_t n) {
  blocks<T>().store(bits(y), y_stride, x, x_stride, rows, n);
}

template float row_sum(const float* x, int64_t n);
template float row_max(const float* x, int64_t n);
template float row_dot(const float* x, const float* y, int64_t n);
template float row_dot3(const float* x, const float* y, const float* z, int64_t n);
template void row_scale(float* y, const float* x, float a, int64_t n);
template void row_add(float* y, const float* x, int64_t n);
template void row_add_scaled(float* y, const float* x, float a, int64_t n);
template void row_blend(float* y, const float* a, float alpha, const float* b, float beta, int64_t n);
template void row_mul(float* y, const float* a, const float* b, int64_t n);
template void row_scale_mul(float* y, const float* x, float a, const float* b, int64_t n);
template void row_add_scaled_mul(float* y, const float* x, float a, const float* b, int64_t n);
template void row_blend_mul(float* y, const float* a, const float* b, float alpha, const float* c, float beta,
                            int64_t n);
template void row_exp(float* y, const float* x, int64_t n);
template float row_exp_sum(float* y, const float* x, float shift, int64_t n);
template void row_sigmoid(float* y, const float* x, int64_t n);
template void row_swiglu(float* y, const float* gate, const float* up, int64_t n);
template void row_swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                                  int64_t n);
template void row_turn(float* a, float* b, const float* cosine, const float* sine, int64_t n);
template void row_adamw(float* master, float* first, float* second, const float* gradient, const AdamWStep<float>& step,
                        float decay, int64_t n);
template double row_sum(const double* x, int64_t n);
template double row_max(const double* x, int64_t n);
template double row_dot(const double* x, const double* y, int64_t n);
template double row_dot3(const double* x, const double* y, const double* z, int64_t n);
template void row_scale(double* y, const double* x, double a, int64_t n);
template void row_add(double* y, const double* x, int64_t n);
template void row_add_scaled(double* y, const double* x, double a, int64_t n);
template void row_blend(double* y, const double* a, double alpha, const double* b, double beta, int64_t n);
template void row_mul(double* y, const double* a, const double* b, int64_t n);
template void row_scale_mul(double* y, const double* x, double a, const double* b, int64_t n);
template void row_add_scaled_mul(double* y, const double* x, double a, const double* b, int64_t n);
template void row_blend_mul(double* y, const double* a, const double* b, double alpha, const double* c, double beta,
                            int64_t n);
template void row_exp(double* y, const double* x, int64_t n);
template double row_exp_sum(double* y, const double* x, double shift, int64_t n);
template void row_sigmoid(double* y, const double* x, int64_t n);
template void row_swiglu(double* y, const double* gate, const double* up, int64_t n);
template void row_swiglu_backward(double* dgate, double* dup, const double* dy, const double* gate, const double* up,
                                  int64_t n);
template void row_turn(double* a, double* b, const double* cosine, const double* sine, int64_t n);
template void row_adamw(double* master, double* first, double* second, const double* gradient,
                        const AdamWStep<double>& step, double decay, int64_t n);

template void rows_silu(float*, int64_t, const float*, int64_t, int64_t, int64_t);
template void rows_silu_backward(float*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t);
template void rows_scale(float*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t);
template void rows_triangle(float*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t);
template void rows_store(float*, int64_t, const float*, int64_t, int64_t, int64_t);
template void rows_silu(double*, int64_t, const double*, int64_t, int64_t, int64_t);
template void rows_silu_backward(double*, int64_t, const double*, int64_t, const double*, int64_t, int64_t, int64_t);
template void rows_scale(double*, int64_t, const double*, int64_t, const double*, int64_t, int64_t, int64_t);
template void rows_triangle(double*, int64_t, const double*, int64_t, const double*, int64_t, int64_t, int64_t,
                            int64_t);
template void rows_store(double*, int64_t, const double*, int64_t, int64_t, int64_t);
template void rows_silu(bf16*, int64_t, const bf16*, int64_t, int64_t, int64_t);
template void rows_silu_backward(bf16*, int64_t, const float*, int64_t, const bf16*, int64_t, int64_t, int64_t);
template void rows_scale(bf16*, int64_t, const bf16*, int64_t, const float*, int64_t, int64_t, int64_t);
template void rows_triangle(bf16*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t);
template void rows_store(bf16*, int64_t, const float*, int64_t, int64_t, int64_t);

}  // namespace fulgur::cpu
