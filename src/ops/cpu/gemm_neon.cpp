// The matrix product's inner loops for NEON: 24 of 32 registers hold sums.
#include "ops/cpu/gemm_kernel.h"
#if defined(__aarch64__)
#include <arm_neon.h>

#include "ops/cpu/gemm_body.h"

namespace fulgur::cpu {
namespace {

struct FloatLanes {
  using Element = float;
  using Vector = float32x4_t;
  static constexpr int kRows = 8, kVectors = 3;
  static Vector all(float x) { return vdupq_n_f32(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
};

struct DoubleLanes {
  using Element = double;
  using Vector = float64x2_t;
  static constexpr int kRows = 8, kVectors = 3;
  static Vector all(double x) { return vdupq_n_f64(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f64(c, a, b); }
};

constexpr GemmKernels kKernels = {Loops<FloatLanes>::kernel(512 << 10), Loops<DoubleLanes>::kernel(512 << 10)};

}  // namespace

const GemmKernels* gemm_kernels_neon() { return &kKernels; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const GemmKernels* gemm_kernels_neon() { return nullptr; }

}  // namespace fulgur::cpu
#endif
