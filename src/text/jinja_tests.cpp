#include "text/jinja_tests.h"

#include <algorithm>

#include "text/jinja_arguments.h"
#include "text/jinja_arithmetic.h"
#include "text/jinja_filters.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

struct Test {
  const char* name;
  bool (*holds)(const Value& value);
};

bool is_iterable(const Value& value) {
  return value.is_text() || value.sequence() || value.mapping() || value.is_undefined();
}

bool is_sequence(const Value& value) {
  return value.is_text() || value.mapping() || value.is_undefined() ||
         (value.sequence() && value.sequence()->kind <= SequenceKind::range);
}

int64_t remainder(const Value& value, const Value& divisor) {
  require_defined(value);
  const Value rest = value.is_text() ? value : arithmetic("%", value, divisor);
  return rest.is_number() && rest.number() == double(int64_t(rest.number())) ? int64_t(rest.number()) : -1;
}

bool is_callable(const Value& value) {
  return value.is_undefined() || (value.object() && (*value.object())->is_callable());
}

constexpr Test kTests[] = {
    {"defined", [](const Value& value) { return !value.is_undefined(); }},
    {"undefined", [](const Value& value) { return value.is_undefined(); }},
    {"none", [](const Value& value) { return value.is_none(); }},
    {"boolean", [](const Value& value) { return value.is<bool>(); }},
    {"true", [](const Value& value) { return value.is<bool>() && truth(value); }},
    {"false", [](const Value& value) { return value.is<bool>() && !truth(value); }},
    {"integer", [](const Value& value) { return value.is<int64_t>(); }},
    {"float", [](const Value& value) { return value.is<double>(); }},
    {"number", [](const Value& value) { return value.is_number(); }},
    {"string", [](const Value& value) { return value.is_text(); }},
    {"mapping", [](const Value& value) { return value.mapping() != nullptr; }},
    {"sequence", is_sequence},
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"escaped", [](const Value& value) { return value.is_markup(); }},
    {"lower", [](const Value& value) { return python::has_property(to_text(value), "islower"); }},
    {"upper", [](const Value& value) { return python::has_property(to_text(value), "isupper"); }},
    {"even", [](const Value& value) { return remainder(value, integer(2)) == 0; }},
    {"odd", [](const Value& value) { return remainder(value, integer(2)) == 1; }},
    {"filter", [](const Value& value) { return value.is_text() && is_filter_name(value.text()); }},
    {"test", [](const Value& value) { return value.is_text() && is_test_name(value.text()); }}};

// Of two values: the name and its sign.
constexpr std::pair<const char*, const char*> kComparisons[] = {
    {"eq", "=="},      {"equalto", "=="}, {"==", "=="}, {"ne", "!="}, {"!=", "!="}, {"lt", "<"},
    {"lessthan", "<"}, {"<", "<"},        {"le", "<="}, {"<=", "<="}, {"gt", ">"},  {"greaterthan", ">"},
    {">", ">"},        {"ge", ">="},      {">=", ">="}, {"in", "in"}};

bool same_object(const Value& a, const Value& b) {
  if (a.data().index() != b.data().index()) return false;
  if (a.sequence()) return a.sequence() == b.sequence();
  if (a.mapping()) return a.mapping() == b.mapping();
  if (a.object()) return *a.object() == *b.object();
  if (a.is_none() || a.is<bool>()) return equal(a, b);
  unsupported("the test 'sameas' of a " + type_name(a));
}

const Test* find_test(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const Test& one) { return one.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

const char* sign_of(std::string_view name) {
  for (const auto& [known, sign] : kComparisons)
    if (known == name) return sign;
  return nullptr;
}

}  // namespace

bool is_test_name(std::string_view name) {
  return find_test(name) || sign_of(name) || name == "divisibleby" || name == "sameas";
}

bool test(std::string_view name, const Value& value, const Arguments& arguments) {
  const std::string called(name);
  if (const Test* found = find_test(name)) {
    const Bound bound(called, arguments, {});
    return found->holds(value);
  }
  if (!is_test_name(name)) refuse("no test named '" + called + "'");
  const Bound bound(called, arguments, {name == "divisibleby" ? "num" : name == "in" ? "seq" : "other"}, 1);
  if (name == "divisibleby") return remainder(value, bound.at(0)) == 0;
  if (name == "sameas") return same_object(value, bound.at(0));
  return compare(sign_of(name), value, bound.at(0));
}

}  // namespace fulgur::jinja
