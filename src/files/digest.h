// xxh3 (64 bits, seed 0) as 16 hexadecimal digits: tells whether bytes are the same as before, not who wrote them.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace fulgur {

std::string digest_of(std::span<const std::byte> bytes);
inline std::string digest_of(std::string_view text) { return digest_of(std::as_bytes(std::span(text))); }
std::string digest_of_file(const std::filesystem::path& path);

}  // namespace fulgur
