// The matrix product's inner loops for AVX-512: 28 of 32 registers hold sums.
#include "ops/cpu/gemm_kernel.h"
#if defined(__AVX512F__)
#include <immintrin.h>

#include "ops/cpu/gemm_body.h"

namespace fulgur::cpu {
namespace {

struct FloatLanes {
  using Element = float;
  using Vector = __m512;
  static constexpr int kRows = 14, kVectors = 2;
  static Vector all(float x) { return _mm512_set1_ps(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
};

struct DoubleLanes {
  using Element = double;
  using Vector = __m512d;
  static constexpr int kRows = 14, kVectors = 2;
  static Vector all(double x) { return _mm512_set1_pd(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
};

constexpr GemmKernels kKernels = {Loops<FloatLanes>::kernel(1 << 20), Loops<DoubleLanes>::kernel(1 << 20)};

}  // namespace

const GemmKernels* gemm_kernels_avx512() { return &kKernels; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const GemmKernels* gemm_kernels_avx512() { return nullptr; }

}  // namespace fulgur::cpu
#endif
