// Python's literals as templates write them: escapes in texts, and numbers.
#pragma once
#include <string>
#include <string_view>

#include "text/jinja_value.h"

namespace fulgur::jinja {

// What stands between the quotes, with its escapes replaced; an unknown escape stays as it is. Throws SyntaxProblem.
std::string unescaped(std::string_view literal, int line);

// The number that `text` begins with, and how many bytes it has. Throws SyntaxProblem; unsupported beyond 64 bits.
Value number_literal(std::string_view text, size_t& bytes, int line);

// The number of a text such as int("-12", base) and float(" 1e5 ") read; nothing where Python raises a ValueError.
std::optional<Value> integer_of(std::string_view text, int64_t base);
std::optional<double> number_of(std::string_view text);

}  // namespace fulgur::jinja
