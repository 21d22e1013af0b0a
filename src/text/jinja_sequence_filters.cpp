// Jinja's filters on lists and dicts.
#include <algorithm>

#include "text/jinja_access.h"
#include "text/jinja_arguments.h"
#include "text/jinja_arithmetic.h"
#include "text/jinja_filters.h"
#include "text/jinja_tests.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

Value count(const Value& value, const Arguments& arguments) {
  const Bound bound("length", arguments, {});
  return integer(length(value));
}

Value as_list(const Value& value, const Arguments& arguments) {
  const Bound bound("list", arguments, {});
  return list(elements(value));
}

bool is_generator(const Value& value) { return value.sequence() && value.sequence()->generator; }

Value first(const Value& value, const Arguments& arguments) {
  const Bound bound("first", arguments, {});
  if (is_generator(value))
    if (auto found = next(*value.sequence()->generator)) return *found;
  const Values all = elements(value);
  return all.empty() ? undefined("No first item, sequence was empty.") : all.front();
}

// The generator of `all`, which is computed from `value` when it is asked for an element.
Value later(const Value& value, std::function<Values()> all) {
  return generator({value}, std::move(all), [](const Value& element) { return std::optional(element); });
}

Value last(const Value& value, const Arguments& arguments) {
  const Bound bound("last", arguments, {});
  if (is_generator(value)) refuse("'generator' object is not reversible");
  const Values all = elements(value);
  return all.empty() ? undefined("No last item, sequence was empty.") : all.back();
}

Value reverse(const Value& value, const Arguments& arguments) {
  const Bound bound("reverse", arguments, {});
  Values all = elements(value);
  std::reverse(all.begin(), all.end());
  if (!value.is_text()) return is_generator(value) ? list(all) : later(list(all), [all] { return all; });
  std::string joined;
  for (const Value& character : all) joined += character.text();
  return text(std::move(joined), value.is_markup());
}

Value items(const Value& value, const Arguments& arguments) {
  const Bound bound("items", arguments, {});
  return later(value, [value] {
    if (!value.is_undefined() && !value.mapping()) refuse("items() expects a dict, not " + type_name(value));
    Values all;
    if (value.mapping())
      for (const auto& [key, held] : value.mapping()->entries) all.push_back(tuple({key, held}));
    return all;
  });
}

Value join(const Value& value, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const std::string between = bound.has(0) ? to_text(bound.at(0)) : "";
  std::string joined;
  bool is_first = true;
  for (const Value& element : elements(value)) {
    if (!std::exchange(is_first, false)) joined += between;
    joined += to_text(bound.given(1) ? path(element, bound.at(1)) : element);
    if (joined.size() > kLongestText) break;  // refused by text()
  }
  return text(std::move(joined));
}

// What a generator that depends on these keeps alive.
Values held_by(const Value& value, const Arguments& arguments) {
  Values held = arguments.positional;
  held.push_back(value);
  for (const auto& argument : arguments.named) held.push_back(argument.second);
  return held;
}

// The elements of what is true; a false value has none, whatever it is.
std::function<Values()> elements_if_true(const Value& value) {
  return [value] { return truth(value) ? elements(value) : Values{}; };
}

std::optional<Value> mapped(const Value& element, const Arguments& arguments) {
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"}, 1);
    return path(element, bound.at(0), bound.given(1) ? bound.at(1) : Value());
  }
  const Value& name = arguments.positional[0];
  if (!name.is_text()) refuse("map() expects the name of a filter, not " + type_name(name));
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  return apply_filter(name.text(), element, rest);
}

Value map(const Value& value, const Arguments& arguments) {
  return generator(held_by(value, arguments), elements_if_true(value),
                   [arguments](const Value& element) { return mapped(element, arguments); });
}

// Whether the test of select or, with an attribute's name before it, of selectattr holds.
bool passes(const Value& element, const Arguments& arguments, bool by_attribute) {
  const Values& given = arguments.positional;
  const size_t at = by_attribute ? 1 : 0;
  if (given.size() < at) refuse("missing parameter for attribute name");
  const Value judged = by_attribute ? path(element, given[0]) : element;
  if (given.size() == at) return truth(judged);
  if (!given[at].is_text()) refuse("expected the name of a test, not " + type_name(given[at]));
  const Arguments rest{{given.begin() + std::ptrdiff_t(at) + 1, given.end()}, arguments.named};
  return test(given[at].text(), judged, rest);
}

// select, reject, selectattr and rejectattr.
template <bool by_attribute, bool wanted>
Value select(const Value& value, const Arguments& arguments) {
  return generator(held_by(value, arguments), elements_if_true(value), [arguments](const Value& element) {
    return passes(element, arguments, by_attribute) == wanted ? std::optional(element) : std::nullopt;
  });
}

// Stable, in either direction, as Python's sorted().
void sort_by(std::vector<std::pair<Value, Value>>& keyed, bool backwards) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return backwards ? less(b.first, a.first) : less(a.first, b.first);
  });
}

Value sort(const Value& value, const Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool case_matters = bound.truth_or(1, false);
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& element : elements(value)) {
    Values keys;
    if (!bound.given(2)) keys = {sorting_key(element, case_matters)};
    else if (!bound.at(2).is_text()) keys = {sorting_key(path(element, bound.at(2)), case_matters)};
    else
      for (const std::string& name : python::split(bound.at(2).text(), ",", -1))
        keys.push_back(sorting_key(path(element, text(name)), case_matters));
    keyed.emplace_back(list(std::move(keys)), std::move(element));
  }
  sort_by(keyed, bound.truth_or(0, false));
  Values sorted;
  for (auto& entry : keyed) sorted.push_back(std::move(entry.second));
  return list(std::move(sorted));
}

Value sort_mapping(const Value& value, const Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  require_defined(value);
  if (!value.mapping()) refuse("dictsort() expects a dict, not " + type_name(value));
  const std::string by = bound.has(1) ? bound.text(1) : "key";
  if (by != "key" && by != "value") refuse("you can only sort by either \"key\" or \"value\"");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, held] : value.mapping()->entries)
    keyed.emplace_back(sorting_key(by == "key" ? key : held, bound.truth_or(0, false)), tuple({key, held}));
  sort_by(keyed, bound.truth_or(2, false));
  Values sorted;
  for (auto& entry : keyed) sorted.push_back(std::move(entry.second));
  return list(std::move(sorted));
}

Value unique(const Value& value, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const auto all = [value] { return elements(value); };
  return generator(held_by(value, arguments), all, [bound, seen = Values()](const Value& element) mutable {
    const Value key = sorting_key(bound.given(1) ? path(element, bound.at(1)) : element, bound.truth_or(0, false));
    if (!is_hashable(key)) refuse("unhashable type: '" + type_name(key) + "'");
    const auto is_key = [&](const Value& other) { return equal(key, other); };
    if (std::any_of(seen.begin(), seen.end(), is_key)) return std::optional<Value>();
    seen.push_back(key);
    return std::optional(element);
  });
}

template <bool largest>
Value extreme(const Value& value, const Arguments& arguments) {
  const Bound bound(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const Values all = elements(value);
  if (all.empty()) return undefined("No aggregated item, sequence was empty.");
  const auto key = [&](const Value& element) {
    return sorting_key(bound.given(1) ? path(element, bound.at(1)) : element, bound.truth_or(0, false));
  };
  size_t best = 0;
  for (size_t i = 1; i < all.size(); ++i)
    if (largest ? less(key(all[best]), key(all[i])) : less(key(all[i]), key(all[best]))) best = i;
  return all[best];
}

Value sum(const Value& value, const Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  Value total = bound.value_or(1, integer(0));
  if (total.is_text()) refuse("sum() cannot add texts");
  for (const Value& element : elements(value))
    total = arithmetic("+", total, bound.given(0) ? path(element, bound.at(0)) : element);
  return total;
}

// Rows of `size` elements, the last one filled up where `fill` is not None.
Values rows(const Value& value, int64_t size, const Value& fill) {
  if (size < 1) unsupported("batch() of less than one element");
  Values all, row;
  for (Value& element : elements(value)) {
    if (int64_t(row.size()) == size) all.push_back(list(std::exchange(row, {})));
    row.push_back(std::move(element));
  }
  if (row.empty()) return all;
  if (!fill.is_none() && size <= kLargestValue) row.resize(size_t(size), fill);
  all.push_back(list(std::move(row)));
  return all;
}

Value batch(const Value& value, const Arguments& arguments) {
  const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = bound.integer_or(0, 0);
  return later(value, [value, size, fill = bound.value_or(1, none())] { return rows(value, size, fill); });
}

// `count` columns, the first ones longer where it does not come out even, the others filled up where `fill` is not
// None.
Values columns(const Value& value, int64_t count, const Value& fill) {
  if (count < 1 || count > kLargestValue) unsupported("slice() into " + std::to_string(count) + " slices");
  const Values given = elements(value);
  const int64_t size = int64_t(given.size()) / count, longer = int64_t(given.size()) % count;
  Values all;
  auto next = given.begin();
  for (int64_t i = 0; i < count; ++i) {
    const auto end = next + std::ptrdiff_t(size + (i < longer));
    Values part(next, end);
    if (!fill.is_none() && i >= longer) part.push_back(fill);
    all.push_back(list(std::move(part)));
    next = end;
  }
  return all;
}

Value slices(const Value& value, const Arguments& arguments) {
  const Bound bound("slice", arguments, {"slices", "fill_with"}, 1);
  const int64_t count = bound.integer_or(0, 0);
  return later(value, [value, count, fill = bound.value_or(1, none())] { return columns(value, count, fill); });
}

constexpr Filter kFilters[] = {{"length", count},
                               {"count", count},
                               {"list", as_list},
                               {"first", first},
                               {"last", last},
                               {"reverse", reverse},
                               {"items", items},
                               {"join", join},
                               {"map", map},
                               {"select", select<false, true>},
                               {"reject", select<false, false>},
                               {"selectattr", select<true, true>},
                               {"rejectattr", select<true, false>},
                               {"sort", sort},
                               {"dictsort", sort_mapping},
                               {"unique", unique},
                               {"min", extreme<false>},
                               {"max", extreme<true>},
                               {"sum", sum},
                               {"batch", batch},
                               {"slice", slices},
                               {"groupby", nullptr}};

}  // namespace

std::span<const Filter> sequence_filters() { return kFilters; }

Value sorting_key(const Value& value, bool case_matters) {
  return case_matters || !value.is_text() ? value : text(python::lower(value.text()));
}

}  // namespace fulgur::jinja
