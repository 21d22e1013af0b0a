// Small arrays between main memory and a device: uploads into an arena, which do not wait for the stream, and
// downloads, which do.
#pragma once
#include <cstring>
#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "device/arena.h"
#include "device/stream.h"

namespace fulgur {

// shape's product is the number of values; one axis where it is left out.
template <class T>
Tensor upload(Stream& stream, Arena& arena, const std::vector<T>& values, std::initializer_list<int64_t> shape) {
  const Tensor t = arena.alloc(dtype_of<T>, shape);
  expect(t.count() == int64_t(values.size()), "the shape holds the uploaded values");
  send(stream, t, values.data());
  return t;
}

template <class T>
Tensor upload(Stream& stream, Arena& arena, const std::vector<T>& values) {
  return upload(stream, arena, values, {int64_t(values.size())});
}

// Arrays that go to the device in one copy, when all are added. Nobody else allocates from the arena meanwhile.
class Uploads {
 public:
  explicit Uploads(Arena& arena) : arena_(arena) {}

  template <class T>
  Tensor add(const std::vector<T>& values, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.alloc(dtype_of<T>, shape);
    expect(t.count() == int64_t(values.size()), "the shape holds the uploaded values");
    if (bytes_.empty()) begin_ = t.data;
    bytes_.resize(size_t(t.data - begin_) + size_t(t.bytes()));
    if (!values.empty()) std::memcpy(bytes_.data() + (t.data - begin_), values.data(), size_t(t.bytes()));
    return t;
  }
  template <class T>
  Tensor add(const std::vector<T>& values) {
    return add(values, {int64_t(values.size())});
  }

  void send(Stream& stream) const {
    fulgur::send(stream, contiguous(begin_, DType::u8, arena_.device(), {int64_t(bytes_.size())}), bytes_.data());
  }

 private:
  Arena& arena_;
  std::byte* begin_ = nullptr;
  std::vector<std::byte> bytes_;  // as they are to lie from begin_ on
};

// The elements of a dense tensor. In a measuring run: zeros.
template <class T>
std::vector<T> download(Stream& stream, Tensor tensor) {
  expect(tensor.dtype == dtype_of<T>, "the downloaded elements are of the tensor's type");
  std::vector<T> values(size_t(tensor.count()));
  receive(stream, values.data(), tensor);
  return values;
}

// A dense tensor's bytes in order, in main memory: all at once where they lie there, else in pieces of `piece` bytes.
void for_bytes(Stream& stream, Tensor tensor, const std::function<void(std::span<const std::byte>)>& visit,
               int64_t piece = int64_t(16) << 20);
std::vector<std::byte> bytes_of(Stream& stream, Tensor tensor);

}  // namespace fulgur
