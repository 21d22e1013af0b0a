// Buffer: the one owner of memory that tensors look at, with the purpose it serves.
#pragma once
#include <cstddef>
#include <utility>

#include "base/tensor.h"

namespace fulgur {

enum class Purpose : uint8_t { weights, optimizer, state, kv, activations, workspace };

class Buffer {
 public:
  Buffer() = default;
  // Zeroed; on the CPU untouched until used. Throws out_of_memory with the bytes asked and free.
  Buffer(size_t bytes, Purpose purpose, DeviceId device = {});
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  DeviceId device() const { return device_; }
  Purpose purpose() const { return purpose_; }

  // The buffer's first elements as one dense tensor.
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape) const;

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_), std::swap(purpose_, other.purpose_);
  }

  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  DeviceId device_;
  Purpose purpose_ = Purpose::workspace;
};

// Bytes of main memory, and of a device's, that a new allocation may count on.
size_t available_memory();
size_t available_memory(DeviceId device);

}  // namespace fulgur
