// Python's string operations on valid UTF-8: positions and lengths count code points, white space and case are
// Unicode's.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur::python {

using Pieces = std::vector<std::string>;

enum class Side : uint8_t { left, right, both };

// One piece per code point.
std::vector<std::string_view> characters(std::string_view text);
int64_t length(std::string_view text);

// str.isspace of one code point: White_Space and U+001C..1F.
bool is_space(uint32_t code_point);

std::string_view strip(std::string_view text, Side side);
// Without any of the code points of `chars`.
std::string_view strip(std::string_view text, std::string_view chars, Side side);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string casefold(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);

// str.split and rsplit; `limit` < 0: no limit. An empty `separator` splits at runs of white space.
Pieces split(std::string_view text, std::string_view separator, int64_t limit);
Pieces split_from_right(std::string_view text, std::string_view separator, int64_t limit);
Pieces split_lines(std::string_view text, bool keep_ends);

// str.replace; `limit` < 0: all.
std::string replace(std::string_view text, std::string_view old, std::string_view with, int64_t limit);

// The predicates str.isdigit, isalpha ... of a whole text, by Python's name; false for the empty text but for isascii.
bool has_property(std::string_view text, std::string_view name);

// repr(text): quoted, with what cannot be printed escaped.
std::string quoted(std::string_view text);
// repr(number): the shortest digits that read back as `number`.
std::string shortest(double number);

}  // namespace fulgur::python
