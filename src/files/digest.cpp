#include "files/digest.h"

#include <xxhash.h>

#include <cstdio>

#include "files/mmap.h"

namespace fulgur {

namespace {

std::string hexadecimal(XXH64_hash_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

}  // namespace

Digest::Digest() : state_(XXH3_createState(), [](XXH3_state_s* state) { XXH3_freeState(state); }) {
  XXH3_64bits_reset(state_.get());
}
void Digest::add(std::span<const std::byte> bytes) { XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()); }
std::string Digest::text() const { return hexadecimal(XXH3_64bits_digest(state_.get())); }

std::string digest_of(std::span<const std::byte> bytes) { return hexadecimal(XXH3_64bits(bytes.data(), bytes.size())); }

std::string digest_of_file(const std::filesystem::path& path) { return digest_of(MappedFile(path).bytes()); }

}  // namespace fulgur
