// Experts' int8 weights in a run's type, for products that read them there (ops/weight.h).
#pragma once
#include "ops/cuda/factors.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/weight.h"

namespace fulgur::cuda {

// Weights of experts in int8, and where they are to lie in a run's type, end to end.
template <class T>
struct Dequantise {
  QuantisedWeights from;
  T* to;
  const int32_t* begin;
  int64_t rows, columns;  // of an expert
};

// A chunk of a row a thread; experts without rows are left alone.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) dequantise(Dequantise<T> w, int64_t count) {
  const int64_t chunks = divide_up(w.columns, kChunk), number = block_index() * kThreads + threadIdx.x;
  const int64_t row = number / chunks, expert = row / w.rows, column = number % chunks * kChunk;
  if (number >= count || w.begin[expert] == w.begin[expert + 1]) return;
  const int64_t own = row - expert * w.rows;  // of the expert's
  const int8_t* const from = w.from.values + expert * w.from.apart + own * w.columns + column;
  const float scale =
      float(T(w.from.scales[expert * w.from.scales_apart + own * scale_count(w.columns) + column / kScaleColumns]));
  uint2 raw = make_uint2(0, 0);
  if constexpr (kAligned) raw = *reinterpret_cast<const uint2*>(from);
  float numbers[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    int8_t value = int8_t((i < 4 ? raw.x : raw.y) >> 8 * (i % 4));
    if constexpr (!kAligned) value = column + i < w.columns ? from[i] : int8_t(0);
    numbers[i] = float(value) * scale;
  }
  store<kAligned>(w.to + row * w.columns + column, numbers, w.columns - column);
}

// The weights of y's groups that have rows, [count, n, k], to `to`.
template <class T>
void dequantise_busy(Stream& stream, const char* name, const Factors<T, T, T>& y, const QuantisedWeights& w, T* to) {
  const Dequantise<T> job{w, to, y.groups.begin, y.n, y.k};
  const int64_t chunks = y.groups.count * y.n * divide_up(y.k, kChunk);
  with_flag(y.k % kChunk == 0 && w.apart % kChunk == 0 && uintptr_t(w.values) % kChunk == 0, [&]<bool kAligned>() {
    launch_blocks(stream, name, divide_up(chunks, kThreads), dim3(kThreads), dequantise<kAligned, T>, job, chunks);
  });
}

}  // namespace fulgur::cuda
