// Python's operators on values.
#pragma once
#include "text/jinja_value.h"

namespace fulgur::jinja {

// left SIGN right for + - * / // % **. Integers beyond 64 bits are unsupported.
Value arithmetic(const std::string& sign, const Value& left, const Value& right);
Value negated(const Value& value);
Value positive(const Value& value);
// left SIGN right for == != < <= > >= and the words `in`, `not in`.
bool compare(const std::string& sign, const Value& left, const Value& right);

}  // namespace fulgur::jinja
