// What `.` and `[ ]` find in a value, in Jinja's order: `.` looks for a method or attribute first and then for a key,
// `[ ]` the other way round. What is not there is undefined.
#pragma once
#include "text/jinja_value.h"

namespace fulgur::jinja {

Value attribute(const Value& object, const std::string& name);
Value item(const Value& object, const Value& index);
// object[start:stop:step]; an absent bound is None. Texts count in code points.
Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);

// The path `a.b.0` that filters such as map(attribute=...) take: a text or an integer. Where a step finds nothing, the
// next one goes on from `otherwise`, if there is one.
Value path(const Value& object, const Value& names, const Value& otherwise = {});

}  // namespace fulgur::jinja
