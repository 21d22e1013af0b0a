// The variables that a place in a template sees.
#pragma once
#include <map>
#include <memory>

#include "text/jinja_value.h"

namespace fulgur::jinja {

struct Scope {
  std::map<std::string, Value, std::less<>> variables;
  std::shared_ptr<Scope> parent;  // looked in where `variables` has no such name; nullptr at the outermost

  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope; scope = scope->parent.get())
      if (const auto found = scope->variables.find(name); found != scope->variables.end()) return &found->second;
    return nullptr;
  }
  void set(const std::string& name, Value value) { variables.insert_or_assign(name, std::move(value)); }
};
using ScopePtr = std::shared_ptr<Scope>;

}  // namespace fulgur::jinja
