// GPT-2's way to write bytes as printable characters in vocabulary files: printable Latin-1 stands for itself, the
// other 68 bytes for U+0100 and up, in order.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace fulgur {

std::string to_byte_alphabet(std::string_view bytes);

// The bytes that `text` stands for; nothing if a character of it is not in the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace fulgur
