// The arguments of a call, bound to the names of a function written in C++.
#pragma once
#include <initializer_list>

#include "text/jinja_value.h"

namespace fulgur::jinja {

class Bound {
 public:
  // Refuses, under the function's name, what none of `parameters` takes and a missing one of the first `required`.
  Bound(const std::string& function, const Arguments& arguments, std::initializer_list<const char*> parameters,
        size_t required = 0);

  bool has(size_t index) const { return values_[index].has_value(); }
  const Value& at(size_t index) const { return *values_[index]; }  // has(index)
  Value value_or(size_t index, Value otherwise) const { return has(index) ? at(index) : std::move(otherwise); }
  // Absent and None are `otherwise`.
  int64_t integer_or(size_t index, int64_t otherwise) const;
  bool truth_or(size_t index, bool otherwise) const { return has(index) ? truth(at(index)) : otherwise; }
  // A text; refused when it is anything else.
  const std::string& text(size_t index) const;
  // Whether an argument is there that is not None.
  bool given(size_t index) const { return has(index) && !at(index).is_none(); }

 private:
  std::string function_;
  std::vector<const char*> parameters_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace fulgur::jinja
