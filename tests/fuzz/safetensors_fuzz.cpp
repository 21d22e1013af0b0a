// A safetensors file: opened, every tensor read.
// sources: src/files/safetensors.cpp src/files/convert_elements.cpp src/files/mmap.cpp
#include <vector>

#include "files/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  const fuzz::MemoryFile file(data, size);
  fuzz::run([&] {
    const Safetensors stored = Safetensors::open(file.path());
    for (const StoredTensor& tensor : stored.tensors())
      fuzz::run([&] {
        std::vector<std::byte> values(size_t(tensor.count()) * sizeof(double));
        read_as(DType::f64, values.data(), tensor);
      });
  });
  return 0;
}
