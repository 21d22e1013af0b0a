// JSON to values of a template and back, written as Python's json.dumps writes it.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "text/jinja_value.h"

namespace fulgur::jinja {

// Integers beyond 64 bits are unsupported.
Value from_json(const nlohmann::ordered_json& json);

struct JsonStyle {
  bool ascii = false;                 // other characters as \uXXXX
  bool sorted = false;                // keys by code point
  std::optional<std::string> indent;  // of one level; absent: all in one line
  std::string item_separator = ", ", key_separator = ": ";
};

// Refuses what JSON cannot say: undefined, generators, views, namespaces, macros.
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace fulgur::jinja
