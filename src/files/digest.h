// xxh3 (64 bits, seed 0) as 16 hexadecimal digits: tells whether bytes are the same as before, not who wrote them.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace fulgur {

// Of bytes that come in pieces.
class Digest {
 public:
  Digest();
  void add(std::span<const std::byte> bytes);
  std::string text() const;

 private:
  std::unique_ptr<XXH3_state_s, void (*)(XXH3_state_s*)> state_;
};

std::string digest_of(std::span<const std::byte> bytes);
inline std::string digest_of(std::string_view text) { return digest_of(std::as_bytes(std::span(text))); }
std::string digest_of_file(const std::filesystem::path& path);

}  // namespace fulgur
