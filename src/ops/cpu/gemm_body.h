// The inner loops of gemm.h, compiled once per instruction set. Lanes names its vector, fma and tile:
//   using Element, Vector; kRows, kVectors; static Vector fma(a, b, c), all(Element).
// Everything here has internal linkage, since each instruction set compiles its own copy.
#pragma once
#include "ops/cpu/gemm_kernel.h"

namespace fulgur::cpu {
namespace {

// a0 b0 a1 b1 ..., from the lower halves and from the upper ones.
template <int kCount, class V>
V zip_low(V a, V b) {
  if constexpr (kCount == 2) return __builtin_shufflevector(a, b, 0, 2);
  if constexpr (kCount == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  if constexpr (kCount == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  if constexpr (kCount == 16)
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
template <int kCount, class V>
V zip_high(V a, V b) {
  if constexpr (kCount == 2) return __builtin_shufflevector(a, b, 1, 3);
  if constexpr (kCount == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  if constexpr (kCount == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  if constexpr (kCount == 16)
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

template <class Lanes>
struct Loops {
  using T = typename Lanes::Element;
  using V = typename Lanes::Vector;
  static constexpr int kCount = sizeof(V) / sizeof(T);
  static constexpr int kRows = Lanes::kRows, kVectors = Lanes::kVectors, kColumns = kVectors * kCount;
  static constexpr int kAhead = 256 / sizeof(T);  // the processor's own prefetch loses so many short runs
  static_assert(kCount <= kPackSlack);

  static V load(const T* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  static void store(T* to, V v) { __builtin_memcpy(to, &v, sizeof v); }

  // kCount lanes by kCount steps of k, turned over in registers: each round zips line i with line i + kCount / 2.
  static void turn(const T* from, int64_t lane_stride, int64_t lanes, T* to, int64_t width) {
    V line[kCount];
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
      line[i] = i < lanes ? load(from + i * lane_stride) : V{};
      __builtin_prefetch(from + i * lane_stride + kAhead);
    }
#pragma GCC unroll 4
    for (int round = 1; round < kCount; round *= 2) {
      V zipped[kCount];
#pragma GCC unroll 8
      for (int i = 0; i < kCount / 2; ++i) {
        zipped[2 * i] = zip_low<kCount>(line[i], line[i + kCount / 2]);
        zipped[2 * i + 1] = zip_high<kCount>(line[i], line[i + kCount / 2]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) line[i] = zipped[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) store(to + i * width, line[i]);
  }

  // Lanes that lie side by side.
  template <int kWidth>
  static void pack_lines(const T* from, int64_t k_stride, int64_t lanes, int64_t k, T* to) {
    if (lanes == kWidth) {
      for (int64_t p = 0; p < k; ++p) __builtin_memcpy(to + p * kWidth, from + p * k_stride, kWidth * sizeof(T));
      return;
    }
    for (int64_t p = 0; p < k; ++p)
      for (int64_t lane = 0; lane < kWidth; ++lane)
        to[p * kWidth + lane] = lane < lanes ? from[p * k_stride + lane] : T(0);
  }

  template <int kWidth>
  static void pack_any(const T* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k, T* to) {
    for (int64_t lane = 0; lane < kWidth; ++lane)
      for (int64_t p = 0; p < k; ++p)
        to[p * kWidth + lane] = lane < lanes ? from[lane * lane_stride + p * k_stride] : T(0);
  }

  // Steps of k that lie side by side. Where kWidth is no multiple of kCount, a line's surplus lanes are overwritten by
  // the next line, the last line's are the slack.
  template <int kWidth>
  static void pack_turned(const T* from, int64_t lane_stride, int64_t lanes, int64_t k, T* to) {
    int64_t p = 0;
    for (; p + kCount <= k; p += kCount) {
      if constexpr (kWidth % kCount == 0) {
        for (int lane = 0; lane < kWidth; lane += kCount)
          turn(from + lane * lane_stride + p, lane_stride, lanes - lane, to + p * kWidth + lane, kWidth);
      } else {
        turn_wide<kWidth>(from + p, lane_stride, lanes, to + p * kWidth);
      }
    }
    pack_any<kWidth>(from + p, lane_stride, 1, lanes, k - p, to + p * kWidth);
  }

  // The groups of lanes in descending order would spoil each other's surplus; the last group starts early instead.
  template <int kWidth>
  static void turn_wide(const T* from, int64_t lane_stride, int64_t lanes, T* to) {
    if constexpr (kWidth < kCount) {
      turn(from, lane_stride, lanes < kWidth ? lanes : kWidth, to, kWidth);
    } else {
      for (int lane = 0; lane + kCount <= kWidth; lane += kCount)
        turn(from + lane * lane_stride, lane_stride, lanes - lane, to + lane, kWidth);
      constexpr int kLast = kWidth - kCount;
      turn(from + kLast * lane_stride, lane_stride, lanes - kLast, to + kLast, kWidth);
    }
  }

  static void pack_columns(const T* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k, T* to) {
    if (lane_stride == 1) return pack_lines<kColumns>(from, k_stride, lanes, k, to);
    if (k_stride == 1) return pack_turned<kColumns>(from, lane_stride, lanes, k, to);
    pack_any<kColumns>(from, lane_stride, k_stride, lanes, k, to);
  }

  static void pack_rows(const T* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k, T* to) {
    if (lanes <= 2) {
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t p = 0; p < k; ++p) to[p * kRows + lane] = from[lane * lane_stride + p * k_stride];
      return;
    }
    if (lane_stride == 1) return pack_lines<kRows>(from, k_stride, lanes, k, to);
    if (k_stride == 1) return pack_turned<kRows>(from, lane_stride, lanes, k, to);
    pack_any<kRows>(from, lane_stride, k_stride, lanes, k, to);
  }

  template <int R>
  static void multiply(int64_t k, const T* a, const T* b, int64_t b_stride, T* c, int64_t c_stride, bool from_c) {
    // The tile below comes next, and its lines are seldom near.
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < kVectors; ++j) __builtin_prefetch(c + (i + kRows) * c_stride + j * kCount, 1);
    V sum[R][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = from_c ? load(c + i * c_stride + j * kCount) : V{};
    for (; k > 0; --k, a += kRows, b += b_stride) {
      V line[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) line[j] = load(b + j * kCount);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const V x = Lanes::all(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[i][j] = Lanes::fma(x, line[j], sum[i][j]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kCount, sum[i][j]);
  }

  // The kernels of 1, 2, ... kRows rows.
  struct Table {
    typename GemmKernel<T>::Multiply at[kRows];
  };
  template <int R>
  static constexpr void fill(Table& table) {
    table.at[R - 1] = multiply<R>;
    if constexpr (R > 1) fill<R - 1>(table);
  }
  static constexpr Table filled() {
    Table table{};
    fill<kRows>(table);
    return table;
  }
  static constexpr Table kMultiply = filled();

  static constexpr GemmKernel<T> kernel(int64_t block_bytes) {
    return {kRows, kColumns, block_bytes, pack_rows, pack_columns, kMultiply.at};
  }
};

}  // namespace
}  // namespace fulgur::cpu
