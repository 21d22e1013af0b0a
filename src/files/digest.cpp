#include "files/digest.h"

#include <xxhash.h>

#include <cstdio>

#include "files/mmap.h"

namespace fulgur {

std::string digest_of(std::span<const std::byte> bytes) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(XXH3_64bits(bytes.data(), bytes.size())));
  return text;
}

std::string digest_of_file(const std::filesystem::path& path) { return digest_of(MappedFile(path).bytes()); }

}  // namespace fulgur
