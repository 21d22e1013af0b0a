// Elementwise CUDA twins on dense tensors: one chunk of 16 bytes of every tensor a thread.
#pragma once
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

template <class T, int kIn, int kOut>
struct ElementPointers {
  T* out[kOut];
  const T* in[kIn];
};

// body(x, y) of one element: x[kIn] in, y[kOut] out.
template <bool kAligned, class T, int kIn, int kOut, class Body>
__global__ void __launch_bounds__(kThreads) each_element(ElementPointers<T, kIn, kOut> p, Body body, int64_t count) {
  follow();
  constexpr int N = kAtOnce<T>;
  const int64_t at = (block_index() * kThreads + threadIdx.x) * N, left = count - at;
  if (left <= 0) return;
  float in[kIn][N], out[kOut][N];
#pragma unroll
  for (int t = 0; t < kIn; ++t) load<kAligned>(in[t], p.in[t] + at, left);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float x[kIn], y[kOut];
#pragma unroll
    for (int t = 0; t < kIn; ++t) x[t] = in[t][i];
    body(x, y);
#pragma unroll
    for (int t = 0; t < kOut; ++t) out[t][i] = y[t];
  }
#pragma unroll
  for (int t = 0; t < kOut; ++t) store<kAligned>(p.out[t] + at, out[t], left);
}

template <class T, int kIn, int kOut, class Body>
void for_elements(Stream& stream, const char* name, const ElementPointers<T, kIn, kOut>& p, Body body, int64_t count) {
  uintptr_t bits = 0;
  for (const T* out : p.out) bits |= reinterpret_cast<uintptr_t>(out);
  for (const T* in : p.in) bits |= reinterpret_cast<uintptr_t>(in);
  with_flag(bits % 16 == 0 && count % kAtOnce<T> == 0, [&]<bool kAligned>() {
    launch_following(stream, name, divide_up(count, int64_t(kThreads) * kAtOnce<T>), dim3(kThreads),
                     each_element<kAligned, T, kIn, kOut, Body>, p, body, count);
  });
}

}  // namespace fulgur::cuda
