// Fuzz targets: what a file may hold is read, and ends in a value or in an Error. Each is built twice: by clang with
// libFuzzer (preset fuzz), and by any compiler with a main that replays tests/fuzz/corpus (replay.cpp), as a test.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace fulgur::fuzz {

// body() may throw an Error and nothing else.
template <class Body>
void run(const Body& body) {
  try {
    body();
  } catch (const Error&) {
  }
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file in memory with these bytes, as long as it lives.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : descriptor_(memfd_create("fuzz", 0)) {
    size_t done = 0;
    while (done < size) {
      const ssize_t wrote = write(descriptor_, data + done, size - done);
      if (wrote <= 0) break;
      done += size_t(wrote);
    }
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace fulgur::fuzz
