// Small arrays between main memory and a device: uploads into an arena, downloads into a vector. Both wait.
#pragma once
#include <initializer_list>
#include <vector>

#include "device/arena.h"
#include "device/stream.h"

namespace fulgur {

// shape's product is the number of values; one axis where it is left out.
template <class T>
Tensor upload(Stream& stream, Arena& arena, const std::vector<T>& values, std::initializer_list<int64_t> shape) {
  const Tensor t = arena.alloc(dtype_of<T>, shape);
  expect(t.count() == int64_t(values.size()), "the shape holds the uploaded values");
  Tensor host = t;
  host.device = {};
  host.data = const_cast<std::byte*>(reinterpret_cast<const std::byte*>(values.data()));
  copy(stream, t, host);
  stream.synchronize();
  return t;
}

template <class T>
Tensor upload(Stream& stream, Arena& arena, const std::vector<T>& values) {
  return upload(stream, arena, values, {int64_t(values.size())});
}

// The elements of a dense tensor. In a measuring run: zeros.
template <class T>
std::vector<T> download(Stream& stream, Tensor tensor) {
  expect(tensor.dtype == dtype_of<T>, "the downloaded elements are of the tensor's type");
  std::vector<T> values(size_t(tensor.count()));
  Tensor host = tensor;
  host.device = {};
  host.data = reinterpret_cast<std::byte*>(values.data());
  copy(stream, host, tensor);
  stream.synchronize();
  return values;
}

}  // namespace fulgur
