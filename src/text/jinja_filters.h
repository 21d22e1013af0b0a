// Jinja's filters, and `tojson` as transformers replaces it.
#pragma once
#include <span>

#include "text/jinja_value.h"

namespace fulgur::jinja {

struct Filter {
  const char* name;
  // nullptr: Jinja has it and this program has not
  Value (*apply)(const Value& value, const Arguments& arguments);
};

bool is_filter_name(std::string_view name);
// `value | name(arguments)`; refuses a name that Jinja does not know.
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments);

// The two halves of the table.
std::span<const Filter> scalar_filters();
std::span<const Filter> sequence_filters();

// What sorting, `unique`, `min` and `max` compare: texts without their case, unless it matters.
Value sorting_key(const Value& value, bool case_matters);

}  // namespace fulgur::jinja
