#include "base/tensor.h"

namespace fulgur {

bool Tensor::is(DType type, std::initializer_list<int64_t> dims) const {
  if (dtype != type || rank != int(dims.size())) return false;
  int axis = 0;
  for (const int64_t n : dims)
    if (dim(axis++) != n) return false;
  return true;
}

bool Tensor::dense() const {
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (dim(i) != 1 && stride[size_t(i)] != step) return false;
    step *= dim(i);
  }
  return true;
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t end) const {
  expect(axis < rank && 0 <= begin && begin <= end && end <= dim(axis), "the slice lies inside the tensor");
  Tensor t = *this;
  if (data) t.data += begin * stride[size_t(axis)] * byte_size(dtype);
  t.shape[size_t(axis)] = end - begin;
  return t;
}

Tensor Tensor::at(int64_t index) const {
  expect(rank >= 2 && 0 <= index && index < dim(0), "the index lies inside the tensor");
  Tensor t = *this;
  if (data) t.data += index * stride[0] * byte_size(dtype);
  t.rank = int8_t(rank - 1);
  for (size_t i = 0; i + 1 < kMaxRank; ++i) t.shape[i] = shape[i + 1], t.stride[i] = stride[i + 1];
  t.shape[kMaxRank - 1] = t.stride[kMaxRank - 1] = 0;
  return t;
}

Tensor Tensor::merged(int axis) const {
  expect(axis < rank, "the axis lies inside the tensor");
  Tensor t = *this;
  t.rank = int8_t(axis + 1);
  t.stride[size_t(axis)] = stride[size_t(rank - 1)];
  for (size_t i = size_t(axis) + 1; i < size_t(rank); ++i) {
    expect(stride[i - 1] == stride[i] * shape[i], "merged axes lie end to end");
    t.shape[size_t(axis)] *= shape[i];
    t.shape[i] = t.stride[i] = 0;
  }
  return t;
}

Tensor Tensor::split(std::initializer_list<int64_t> dims) const {
  expect(rank >= 1 && rank - 1 + int(dims.size()) <= kMaxRank, "the split tensor's rank is at most five");
  Tensor t = *this;
  const size_t first = size_t(rank - 1);
  t.rank = int8_t(first + dims.size());
  size_t i = first;
  for (const int64_t n : dims) t.shape[i++] = n;
  int64_t step = stride[first];
  while (i-- > first) t.stride[i] = step, step *= t.shape[i];
  expect(step == stride[first] * shape[first], "the parts of a split axis multiply to its size");
  return t;
}

Tensor contiguous(std::byte* data, DType dtype, DeviceId device, std::initializer_list<int64_t> shape) {
  expect(shape.size() <= kMaxRank, "a tensor's rank is at most five");
  Tensor t;
  t.data = data, t.dtype = dtype, t.device = device, t.rank = int8_t(shape.size());
  size_t i = 0;
  for (const int64_t n : shape) t.shape[i++] = n;
  for (int64_t step = 1; i-- > 0; step *= t.shape[i]) t.stride[i] = step;
  return t;
}

}  // namespace fulgur
