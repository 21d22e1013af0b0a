// The matrix product's inner loops for AVX2: twelve of sixteen registers hold sums.
#include "ops/cpu/gemm_kernel.h"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "ops/cpu/gemm_body.h"

namespace fulgur::cpu {
namespace {

struct FloatLanes {
  using Element = float;
  using Vector = __m256;
  static constexpr int kRows = 6, kVectors = 2;
  static Vector all(float x) { return _mm256_set1_ps(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
};

struct DoubleLanes {
  using Element = double;
  using Vector = __m256d;
  static constexpr int kRows = 6, kVectors = 2;
  static Vector all(double x) { return _mm256_set1_pd(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
};

constexpr GemmKernels kKernels = {Loops<FloatLanes>::kernel(512 << 10), Loops<DoubleLanes>::kernel(512 << 10)};

}  // namespace

const GemmKernels* gemm_kernels_avx2() { return &kKernels; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const GemmKernels* gemm_kernels_avx2() { return nullptr; }

}  // namespace fulgur::cpu
#endif
