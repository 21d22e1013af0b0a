// The matrix product's inner loops for a machine with no instruction set of its own here: right first, fast where the
// compiler finds an fma.
#include "ops/cpu/gemm_body.h"

namespace fulgur::cpu {
namespace {

template <class T, int Bytes>
struct PlainLanes {
  using Element = T;
  typedef T Vector __attribute__((vector_size(Bytes)));
  static constexpr int kRows = 4, kVectors = 4;
  static Vector all(T x) { return x - Vector{}; }
  static Vector fma(Vector a, Vector b, Vector c) {
    Vector sum;
    for (unsigned i = 0; i < sizeof(Vector) / sizeof(T); ++i) sum[i] = one(a[i], b[i], c[i]);
    return sum;
  }
  static float one(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double one(double a, double b, double c) { return __builtin_fma(a, b, c); }
};

constexpr GemmKernels kKernels = {Loops<PlainLanes<float, 16>>::kernel(256 << 10),
                                  Loops<PlainLanes<double, 16>>::kernel(256 << 10)};

}  // namespace

const GemmKernels* gemm_kernels_generic() { return &kKernels; }

}  // namespace fulgur::cpu
