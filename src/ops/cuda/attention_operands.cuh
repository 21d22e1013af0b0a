// What attention's kernels ask of a call's tensors, and how they see them.
#pragma once
#include "device/launch.cuh"

namespace fulgur::cuda {

// A head's rows from one column on, end to end.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
  __device__ T* at(int64_t row, int column) const { return data + row * stride + column; }
};

// Null where the operand was not given.
template <class T>
T* data_of(const Tensor& t) {
  return t ? reinterpret_cast<T*>(t.data) : nullptr;
}

template <class T, int R>
View<T, R> view_of(const Tensor& t) {
  if (!t) return {};
  const View<std::remove_const_t<T>, R> view = t.view<std::remove_const_t<T>, R>();
  View<T, R> result{view.data, {}, {}};
  for (int r = 0; r < R; ++r) result.shape[r] = view.shape[r], result.stride[r] = view.stride[r];
  return result;
}

// Rows that kernels read and write 16 bytes at a time.
inline bool holds_vectors(const Tensor& t) {
  if (!t) return true;
  bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride[size_t(t.rank - 1)] == 1;
  for (int axis = 0; axis + 1 < t.rank; ++axis) aligned &= t.stride[size_t(axis)] * byte_size(t.dtype) % 16 == 0;
  return aligned;
}
template <class... Tensors>
void expect_vectors(const Tensors&... tensors) {
  expect((holds_vectors(tensors) && ...), "rows of attention's operands begin at multiples of 16 bytes");
}

}  // namespace fulgur::cuda
