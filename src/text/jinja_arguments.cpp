#include "text/jinja_arguments.h"

#include <algorithm>

namespace fulgur::jinja {

Bound::Bound(const std::string& function, const Arguments& arguments, std::initializer_list<const char*> parameters,
             size_t required)
    : function_(function), parameters_(parameters), values_(parameters.size()) {
  if (arguments.positional.size() > values_.size())
    refuse(function + "() takes at most " + std::to_string(values_.size()) + " arguments, not " +
           std::to_string(arguments.positional.size()));
  std::copy(arguments.positional.begin(), arguments.positional.end(), values_.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters_.begin(), parameters_.end(), name);
    if (found == parameters_.end()) refuse(function + "() got an unexpected keyword argument '" + name + "'");
    auto& slot = values_[size_t(found - parameters_.begin())];
    if (slot) refuse(function + "() got multiple values for argument '" + name + "'");
    slot = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!values_[i]) refuse(function + "() misses its argument '" + parameters_[i] + "'");
}

int64_t Bound::integer_or(size_t index, int64_t otherwise) const {
  if (!given(index)) return otherwise;
  require_defined(at(index));
  if (!at(index).is_integer())
    refuse(function_ + "() expects an integer as '" + parameters_[index] + "', not " + type_name(at(index)));
  return at(index).integer();
}

const std::string& Bound::text(size_t index) const {
  require_defined(at(index));
  if (!at(index).is_text())
    refuse(function_ + "() expects a str as '" + parameters_[index] + "', not " + type_name(at(index)));
  return at(index).text();
}

}  // namespace fulgur::jinja
