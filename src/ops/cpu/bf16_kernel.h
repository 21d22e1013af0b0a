// The inner loops of gemm_bf16.h as a table of functions, one table per instruction set.
// Files compiled for one instruction set include nothing else of ours: an inline function emitted there could be the
// copy that the linker picks for everybody.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fulgur::cpu {

template <class T>
struct GemmKernel;

// Rows of a as a product reads them: bf16 numbers, elements between rows and between blocks of steps. For kernels that
// widen, the panel of packed rows.
struct Bf16Rows {
  const void* data;
  int64_t row_stride, block_stride;
};

// A matrix b[k, n] as it lies in memory: its columns side by side, n in whole lines of 32, bf16, or f32 that is rounded
// on the way; or its steps, bf16, k in whole blocks of 32.
struct Bf16Lying {
  const void* data;
  bool is_bf16;
  int64_t k_stride, column_stride;  // elements
};

// Panels hold `rows` rows of a, or `columns` columns of b, for a range of k that is padded with zeros to whole steps.
// The part of a panel that belongs to step s begins at s * step * (rows or columns) elements.
struct Bf16Kernel {
  // lanes (rows of a, columns of b) at lane_stride, steps of k at k_stride, one of the strides is 1. from: bf16 bits.
  using Pack = void (*)(const Bf16Kernel& self, const uint16_t* from, int64_t lane_stride, int64_t k_stride,
                        int64_t lanes, int64_t k, void* to);
  // pack_columns of a whole panel of f32 numbers, lanes side by side and k in whole blocks, rounded on the way.
  using PackWide = void (*)(const float* from, int64_t k_stride, int64_t k, void* to);
  // c[i, j] = (from_c ? c[i, j] : 0) + sum over k, for the panel's first `count` rows rounded up to row_grain.
  using Multiply = void (*)(const Bf16Kernel& self, int64_t count, int64_t k, const Bf16Rows& a, const void* b,
                            float* c, int64_t c_stride, bool from_c);
  // c[i * columns + j] = (from_c ? c[i * columns + j] : 0) + sum over k of x[i, k] * w[j, k] for `count` rows of x, at
  // most `few`, as pack_few packs them, and `columns` rows j of w as they lie in memory: elements between rows and
  // between blocks of steps, and to the rows that are read next (0: there are none), which it asks for in time.
  using MultiplyFew = void (*)(int64_t count, int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride,
                               int64_t next, const void* x, float* c, bool from_c);

  // c[j] = (from_c ? c[j] : 0) + sum over k of x[k] * b[k, j] for n columns of b.
  using MultiplyOne = void (*)(const uint16_t* x, int64_t k, const Bf16Lying& b, float* c, int64_t n, bool from_c);

  // A block of sums, `columns` wide, from and to `count` lines of f32 or bf16 numbers of which `width` belong to it.
  using LoadBlock = void (*)(const Bf16Kernel& self, float* block, const void* c, bool c_is_bf16, int64_t c_stride,
                             int64_t count, int64_t width);
  using StoreBlock = void (*)(const Bf16Kernel& self, const float* block, void* c, bool c_is_bf16, int64_t c_stride,
                              int64_t count, int64_t width);

  int64_t rows, columns, step, row_grain;
  int64_t element_bytes;  // of a packed element
  double products_per_cycle = 32;
  bool reads_rows = false;  // whole steps of a's rows need no packing where they lie side by side
  Pack pack_rows;           // may write kBf16PackSlack elements beyond its panel
  Pack pack_columns;
  PackWide pack_wide = nullptr;  // null: f32 numbers are rounded line by line before they are packed
  Multiply multiply;
  LoadBlock load_block;
  StoreBlock store_block;
  void (*turn_block)(float* block) = nullptr;  // rows to columns; of kernels that read rows, whose blocks are square
  void (*begin)() = nullptr;                   // around the products of a tile, on each thread
  void (*end)() = nullptr;
  int64_t few = 0;  // rows of a up to which b is read as it lies; 0: never
  Pack pack_few = nullptr;
  MultiplyFew multiply_few = nullptr;
  MultiplyOne multiply_one = nullptr;  // null: one row is packed as many are
  // y = x * scale, one of bf16's numbers, rounded; null: as row_dequantise does it. Where products take subnormal
  // numbers for 0, these may be 0 too.
  void (*dequantise)(uint16_t* y, const int8_t* x, float scale, int64_t n) = nullptr;
  const GemmKernel<float>* widened = nullptr;  // for CPUs without bf16 products: the f32 kernel that multiplies
};

inline constexpr int64_t kBf16PackSlack = 16;

// Null where the file was not compiled for its instruction set.
const Bf16Kernel* bf16_kernel_avx512();
const Bf16Kernel* bf16_kernel_amx();

}  // namespace fulgur::cpu
