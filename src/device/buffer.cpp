#include "device/buffer.h"

#include <sys/mman.h>

#include <fstream>
#include <string>

#include "device/cuda_calls.h"

namespace fulgur {

size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (size_t kib = 0; file >> key >> kib; std::getline(file, unit))
    if (key == "MemAvailable:") return kib << 10;
  return SIZE_MAX;
}

size_t available_memory(DeviceId device) { return device.is_cuda() ? cuda::free_memory(device) : available_memory(); }

Buffer::Buffer(size_t bytes, Purpose purpose, DeviceId device) : bytes_(bytes), device_(device), purpose_(purpose) {
  if (bytes == 0) return;
  if (device.is_cuda()) {
    data_ = cuda::allocate(device, bytes);
    return;
  }
  const size_t free_bytes = available_memory();
  void* memory = MAP_FAILED;
  if (bytes <= free_bytes) memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    fail(ErrorKind::out_of_memory,
         "out of memory: " + std::to_string(bytes) + " bytes asked, " + std::to_string(free_bytes) + " free");
  madvise(memory, bytes, MADV_HUGEPAGE);  // a hint: fewer page faults and TLB misses where the kernel grants it
  data_ = static_cast<std::byte*>(memory);
}

Buffer::~Buffer() {
  if (!data_) return;
  if (device_.is_cuda()) cuda::release(data_);
  else munmap(data_, bytes_);
}

Tensor Buffer::tensor(DType dtype, std::initializer_list<int64_t> shape) const {
  const Tensor t = contiguous(data_, dtype, device_, shape);
  expect(size_t(t.bytes()) <= bytes_, "the tensor fits its buffer");
  return t;
}

}  // namespace fulgur
