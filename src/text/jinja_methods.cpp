#include "text/jinja_methods.h"

#include <algorithm>
#include <span>

#include "text/jinja_arguments.h"

namespace fulgur::jinja {
namespace {

Value get(const Value& object, const Arguments& arguments) {
  const Bound bound("get", arguments, {"key", "default"}, 1);
  if (!is_hashable(bound.at(0))) refuse("unhashable type: '" + type_name(bound.at(0)) + "'");
  const Value* found = object.mapping()->find(bound.at(0));
  return found ? *found : bound.value_or(1, none());
}

Value keys(const Value& object, const Arguments& arguments) {
  const Bound bound("keys", arguments, {});
  return sequence(SequenceKind::keys, elements(object));
}

Value values(const Value& object, const Arguments& arguments) {
  const Bound bound("values", arguments, {});
  Values all;
  for (const auto& entry : object.mapping()->entries) all.push_back(entry.second);
  return sequence(SequenceKind::values, std::move(all));
}

Value items(const Value& object, const Arguments& arguments) {
  const Bound bound("items", arguments, {});
  Values all;
  for (const auto& [key, value] : object.mapping()->entries) all.push_back(tuple({key, value}));
  return sequence(SequenceKind::items, std::move(all));
}

Value copy(const Value& object, const Arguments& arguments) {
  const Bound bound("copy", arguments, {});
  return object;
}

Value count(const Value& object, const Arguments& arguments) {
  const Bound bound("count", arguments, {"value"}, 1);
  const Values& all = object.sequence()->values;
  return integer(std::count_if(all.begin(), all.end(), [&](const Value& one) { return equal(one, bound.at(0)); }));
}

Value index(const Value& object, const Arguments& arguments) {
  const Bound bound("index", arguments, {"value"}, 1);
  const Values& all = object.sequence()->values;
  const auto found = std::find_if(all.begin(), all.end(), [&](const Value& one) { return equal(one, bound.at(0)); });
  if (found == all.end()) refuse("the value is not in the " + type_name(object));
  return integer(found - all.begin());
}

constexpr Method kMappingMethods[] = {{"get", get},
                                      {"items", items},
                                      {"keys", keys},
                                      {"values", values},
                                      {"copy", copy},
                                      {"clear", nullptr, true},
                                      {"pop", nullptr, true},
                                      {"popitem", nullptr, true},
                                      {"update", nullptr, true},
                                      {"setdefault", nullptr, true},
                                      {"fromkeys", nullptr}};
constexpr Method kListMethods[] = {{"count", count},           {"index", index},         {"copy", copy},
                                   {"append", nullptr, true},  {"clear", nullptr, true}, {"extend", nullptr, true},
                                   {"insert", nullptr, true},  {"pop", nullptr, true},   {"remove", nullptr, true},
                                   {"reverse", nullptr, true}, {"sort", nullptr, true}};
constexpr Method kTupleMethods[] = {{"count", count}, {"index", index}};
constexpr Method kNumberMethods[] = {{"real", nullptr},       {"imag", nullptr},        {"conjugate", nullptr},
                                     {"numerator", nullptr},  {"denominator", nullptr}, {"as_integer_ratio", nullptr},
                                     {"is_integer", nullptr}, {"bit_length", nullptr},  {"bit_count", nullptr},
                                     {"to_bytes", nullptr},   {"from_bytes", nullptr},  {"hex", nullptr},
                                     {"fromhex", nullptr}};
constexpr Method kRangeMethods[] = {
    {"start", nullptr}, {"stop", nullptr}, {"step", nullptr}, {"count", nullptr}, {"index", nullptr}};
constexpr Method kViewMethods[] = {{"mapping", nullptr}, {"isdisjoint", nullptr}};
constexpr Method kGeneratorMethods[] = {
    {"send", nullptr}, {"throw", nullptr}, {"close", nullptr}, {"gi_frame", nullptr}, {"gi_code", nullptr}};

std::span<const Method> methods_of(const Value& object) {
  if (object.mapping()) return kMappingMethods;
  if (object.is_number()) return kNumberMethods;
  if (!object.sequence()) return {};
  switch (object.sequence()->kind) {
    case SequenceKind::list: return kListMethods;
    case SequenceKind::tuple: return kTupleMethods;
    case SequenceKind::range: return kRangeMethods;
    case SequenceKind::generator: return kGeneratorMethods;
    default: return kViewMethods;
  }
}

}  // namespace

const Method* find_method(const Value& object, std::string_view name) {
  if (object.is_text()) return find_text_method(name);
  const auto all = methods_of(object);
  const auto found = std::find_if(all.begin(), all.end(), [&](const Method& method) { return method.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace fulgur::jinja
