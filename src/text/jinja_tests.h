// Jinja's tests: what may follow `is`.
#pragma once
#include "text/jinja_value.h"

namespace fulgur::jinja {

bool is_test_name(std::string_view name);
// `value is name(arguments)`; refuses a name that Jinja does not know.
bool test(std::string_view name, const Value& value, const Arguments& arguments);

}  // namespace fulgur::jinja
