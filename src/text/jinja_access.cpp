#include "text/jinja_access.h"

#include "text/jinja_literal.h"
#include "text/jinja_methods.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

// A method that waits for its call.
struct BoundMethod : Object {
  BoundMethod(Value of, const Method* found) : object(std::move(of)), method(found) {}
  std::string type_name() const override { return "method"; }
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override { return method->call(object, arguments); }
  Extent extent() const override { return {jinja::extent(object).depth + 1, jinja::extent(object).count + 1}; }

  Value object;
  const Method* method;
};

std::string described(const Value& object) { return object.is_none() ? "None" : "'" + type_name(object) + " object'"; }

Value missing(const Value& object, const std::string& name) {
  return undefined(described(object) + " has no attribute '" + name + "'");
}

// What getattr finds; nothing where it raises an AttributeError.
std::optional<Value> own_attribute(const Value& object, const std::string& name) {
  if (const auto* held = object.object()) {
    if (auto found = (*held)->attribute(name)) return found;
    return std::nullopt;
  }
  const auto* method = find_method(object, name);
  if (!method) return std::nullopt;
  if (method->mutates) return undefined("access to attribute '" + name + "' of " + described(object) + " is unsafe");
  if (!method->call) unsupported("'" + name + "' of a " + type_name(object));
  return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(object, method)));
}

// What object[index] gives; nothing where Python raises a TypeError or LookupError.
std::optional<Value> own_item(const Value& object, const Value& index) {
  if (const Mapping* held = object.mapping()) {
    const Value* found = is_hashable(index) ? held->find(index) : nullptr;
    return found ? std::optional(*found) : std::nullopt;
  }
  const Sequence* held = object.sequence();
  const bool subscriptable = object.is_text() || (held && held->kind <= SequenceKind::range);
  if (!subscriptable || !index.is_integer()) return std::nullopt;
  const int64_t count = length(object), at = index.integer() + (index.integer() < 0 ? count : 0);
  if (at < 0 || at >= count) return std::nullopt;
  if (held) return held->values[size_t(at)];
  return text(std::string(python::characters(object.text())[size_t(at)]), object.is_markup());
}

void require_known_attribute(const std::string& name) {
  if (name.starts_with("__")) unsupported("the attribute '" + name + "'");
}

// A bound of a slice as an index of [0, count], or of [-1, count - 1] where the step is negative.
int64_t bound(const Value& given, int64_t count, int64_t otherwise, bool backwards) {
  if (given.is_none()) return otherwise;
  require_defined(given);
  if (!given.is_integer()) refuse("slice indices must be integers or None, not " + type_name(given));
  const int64_t at = given.integer() < 0 ? given.integer() + count : given.integer();
  return std::min(std::max<int64_t>(at, backwards ? -1 : 0), backwards ? count - 1 : count);
}

}  // namespace

Value attribute(const Value& object, const std::string& name) {
  require_defined(object);
  if (auto found = own_attribute(object, name)) return *found;
  if (auto found = own_item(object, text(name))) return *found;
  require_known_attribute(name);
  return missing(object, name);
}

Value item(const Value& object, const Value& index) {
  require_defined(object);
  if (auto found = own_item(object, index)) return *found;
  if (index.is_text()) {
    if (auto found = own_attribute(object, index.text())) return *found;
    require_known_attribute(index.text());
    return missing(object, index.text());
  }
  if (index.is_undefined()) return undefined(described(object) + " has no element Undefined");
  return undefined(described(object) + " has no element " + (index.object() ? type_name(index) : to_repr(index)));
}

Value slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  require_defined(object), require_defined(step);
  const Sequence* held = object.sequence();
  if (!object.is_text() && !(held && held->kind <= SequenceKind::range))
    refuse("'" + type_name(object) + "' object cannot be sliced");
  if (!step.is_none() && !step.is_integer()) refuse("slice indices must be integers or None, not " + type_name(step));
  const int64_t stride = step.is_none() ? 1 : step.integer();
  if (stride == 0) refuse("slice step cannot be zero");
  if (held && held->kind == SequenceKind::range) unsupported("slices of a range");
  const Values all = elements(object);
  const auto count = int64_t(all.size());
  const bool backwards = stride < 0;
  const int64_t first = bound(start, count, backwards ? count - 1 : 0, backwards);
  const int64_t last = bound(stop, count, backwards ? -1 : count, backwards);
  Values chosen;
  for (__int128 i = first; backwards ? i > last : i < last; i += stride) chosen.push_back(all[size_t(i)]);
  if (held) return sequence(held->kind, std::move(chosen));
  std::string joined;
  for (const Value& character : chosen) joined += character.text();
  return text(std::move(joined), object.is_markup());
}

Value path(const Value& object, const Value& names, const Value& otherwise) {
  if (!names.is_integer() && !names.is_text()) refuse("an attribute is named by a str or int, not " + type_name(names));
  Value found = object;
  const auto go = [&](const Value& index) {
    found = item(found, index);
    if (found.is_undefined() && !otherwise.is_undefined()) found = otherwise;
  };
  if (names.is_integer()) return go(names), found;
  for (const std::string& name : python::split(names.text(), ".", -1))
    go(python::has_property(name, "isdigit") ? integer_of(name, 10).value_or(text(name)) : text(name));
  return found;
}

}  // namespace fulgur::jinja
