// The inner loops of gemm.h as a table of functions, one table per instruction set, and the products that run on one.
// Files compiled for one instruction set include nothing else of ours: an inline function emitted there could be the
// copy that the linker picks for everybody.
#pragma once
#include <cstdint>

namespace fulgur::cpu {

inline constexpr int64_t kDepth = 256;  // steps of k that one call of a kernel adds

// A panel holds `width` lanes (rows of a, or columns of b) side by side for each k: to[k * width + lane].
template <class T>
struct GemmKernel {
  using Pack = void (*)(const T* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k, T* to);
  // c[i, j] = (from_c ? c[i, j] : 0) + sum over k of a[k * rows + i] * b[k * b_stride + j], a full tile of columns.
  using Multiply = void (*)(int64_t k, const T* a, const T* b, int64_t b_stride, T* c, int64_t c_stride, bool from_c);

  int64_t rows, columns;     // of a tile of outputs
  int64_t block_bytes;       // of packed a that should stay in a core's cache
  Pack pack_rows;            // may write kPackSlack elements beyond its panel, and leaves lanes beyond `lanes` open
  Pack pack_columns;         // zeros for lanes beyond `lanes`
  const Multiply* multiply;  // [rows]: for tiles of 1, 2, ... rows
};

inline constexpr int64_t kPackSlack = 16;

struct GemmKernels {
  GemmKernel<float> f32;
  GemmKernel<double> f64;
};

// Null where the file was not compiled for its instruction set.
const GemmKernels* gemm_kernels_generic();
const GemmKernels* gemm_kernels_neon();
const GemmKernels* gemm_kernels_avx2();
const GemmKernels* gemm_kernels_avx512();

}  // namespace fulgur::cpu
