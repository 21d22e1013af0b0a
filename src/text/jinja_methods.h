// The methods of Python's str, list, tuple and dict.
#pragma once
#include "text/jinja_value.h"

namespace fulgur::jinja {

struct Method {
  const char* name;
  Value (*call)(const Value& object, const Arguments& arguments);  // nullptr: Python has it and this program has not
  bool mutates = false;                                            // refused by the sandbox
};

// The method `name` of the value's type; nullptr where Python has no such attribute.
const Method* find_method(const Value& object, std::string_view name);
const Method* find_text_method(std::string_view name);

// python::replace, refused where the text grows beyond kLongestText.
std::string replaced(const std::string& bytes, const std::string& old, const std::string& with, int64_t limit);

}  // namespace fulgur::jinja
