#include "text/jinja_filters.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_access.h"
#include "text/jinja_arguments.h"
#include "text/jinja_format.h"
#include "text/jinja_json.h"
#include "text/jinja_literal.h"
#include "text/jinja_methods.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

// str(value), markup staying markup.
Value soft(const Value& value) { return value.is_text() ? value : text(to_text(value)); }

template <std::string (*changes)(std::string_view)>
Value changed(const Value& value, const Arguments& arguments) {
  const Bound bound("a filter that changes case", arguments, {});
  return text(changes(to_text(value)), value.is_markup());
}

// Words begin behind white space and opening brackets.
std::string title(std::string_view bytes) {
  std::string all;
  bool inside = false;
  for (const auto character : python::characters(bytes)) {
    const bool separates = !python::strip(character, python::Side::both).size() ||
                           (character.size() == 1 && std::string_view("-({[<").find(character) != character.npos);
    all += inside ? python::lower(character) : python::upper(character);
    inside = !separates;
  }
  return all;
}

template <const char* const& name>
Value as_method(const Value& value, const Arguments& arguments) {
  return find_text_method(name)->call(soft(value), arguments);
}
constexpr const char* kStrip = "strip";

Value center(const Value& value, const Arguments& arguments) {
  const Bound bound("center", arguments, {"width"});
  return find_text_method("center")->call(soft(value), {{integer(bound.integer_or(0, 80))}, {}});
}

Value as_text(const Value& value, const Arguments& arguments) {
  const Bound bound("string", arguments, {});
  return soft(value);
}

Value safe(const Value& value, const Arguments& arguments) {
  const Bound bound("safe", arguments, {});
  return text(to_text(value), true);
}

Value escape(const Value& value, const Arguments& arguments) {
  const Bound bound("escape", arguments, {});
  return value.is_markup() ? value : text(escaped_for_html(to_text(value)), true);
}

Value force_escape(const Value& value, const Arguments& arguments) {
  const Bound bound("forceescape", arguments, {});
  return text(escaped_for_html(to_text(value)), true);
}

Value otherwise(const Value& value, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  const bool absent = value.is_undefined() || (bound.truth_or(1, false) && !truth(value));
  return absent ? bound.value_or(0, text("")) : value;
}

Value replace(const Value& value, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  return text(replaced(to_text(value), to_text(bound.at(0)), to_text(bound.at(1)), bound.integer_or(2, -1)));
}

Value format(const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    refuse("format() takes arguments with names or without, not both");
  if (arguments.named.empty()) return percent_format(soft(value), tuple(arguments.positional));
  Entries entries;
  for (const auto& [name, given] : arguments.named) entries.emplace_back(text(name), given);
  return percent_format(soft(value), mapping(std::move(entries)));
}

Value indent(const Value& value, const Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  require_defined(value);
  if (!value.is_text()) refuse("indent() expects a str, not " + type_name(value));
  const bool is_text = bound.has(0) && bound.at(0).is_text();
  const int64_t width = is_text ? 0 : std::clamp<int64_t>(bound.integer_or(0, 4), 0, 10'000);
  const std::string space = is_text ? bound.text(0) : std::string(size_t(width), ' ');
  const auto lines = python::split_lines(value.text() + "\n", false);
  std::string all = bound.truth_or(1, false) ? space : "";
  for (size_t i = 0; i < lines.size() && all.size() <= kLongestText; ++i) {
    if (i > 0) all += '\n';
    if (i > 0 && (bound.truth_or(2, false) || !lines[i].empty())) all += space;
    all += lines[i];
  }
  return text(std::move(all), value.is_markup());
}

Value truncate(const Value& value, const Arguments& arguments) {
  const Bound bound("truncate", arguments, {"length", "killwords", "end", "leeway"});
  require_defined(value);
  if (!value.is_text()) refuse("truncate() expects a str, not " + type_name(value));
  const std::string end = bound.given(2) ? bound.text(2) : "...";
  const int64_t longest = bound.integer_or(0, 255), leeway = bound.integer_or(3, 5);
  const int64_t kept = longest - python::length(end);
  if (kept < 0 || leeway < 0) refuse("truncate() expects a length of at least its end's, and a leeway of at least 0");
  const auto all = python::characters(value.text());
  if (int64_t(all.size()) <= longest + leeway) return value;
  std::string cut;
  for (int64_t i = 0; i < kept; ++i) cut += all[size_t(i)];
  if (!bound.truth_or(1, false)) cut = python::split_from_right(cut, " ", 1).front();
  return text(cut + end, value.is_markup());
}

Value word_count(const Value& value, const Arguments& arguments) {
  const Bound bound("wordcount", arguments, {});
  int64_t count = 0;
  bool inside = false;
  for (const auto character : python::characters(to_text(value))) {
    const bool is_word = character == "_" || python::has_property(character, "isalnum");
    count += is_word && !inside;
    inside = is_word;
  }
  return integer(count);
}

// int(number), towards zero.
Value truncated(double value) {
  if (std::fabs(value) >= 9.2e18) unsupported("integers beyond 64 bits");
  return integer(int64_t(value));
}

Value to_integer(const Value& value, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  require_defined(value);
  if (value.is_integer()) return integer(value.integer());
  if (value.is<double>()) {
    if (std::isinf(value.number())) refuse("cannot convert float infinity to integer");
    return std::isnan(value.number()) ? bound.value_or(0, integer(0)) : truncated(value.number());
  }
  if (!value.is_text()) return bound.value_or(0, integer(0));
  if (const auto whole = integer_of(value.text(), bound.integer_or(1, 10))) return *whole;
  const double found = number_of(value.text()).value_or(std::nan(""));
  return std::isfinite(found) ? truncated(found) : bound.value_or(0, integer(0));
}

Value to_float(const Value& value, const Arguments& arguments) {
  const Bound bound("float", arguments, {"default"});
  require_defined(value);
  if (value.is_number()) return number(value.number());
  const auto found = value.is_text() ? number_of(value.text()) : std::nullopt;
  return found ? number(*found) : bound.value_or(0, number(0));
}

Value absolute(const Value& value, const Arguments& arguments) {
  const Bound bound("abs", arguments, {});
  require_defined(value);
  if (!value.is_number()) refuse("abs() expects a number, not " + type_name(value));
  if (value.is<double>()) return number(std::fabs(value.number()));
  if (value.integer() == INT64_MIN) unsupported("integers beyond 64 bits");
  return integer(std::abs(value.integer()));
}

// Half to even in decimal digits, as C's printf rounds.
double rounded(double value, int64_t precision) {
  if (!std::isfinite(value) || precision > 300) return value;
  if (precision < 0) unsupported("round() to a negative precision");
  char digits[700];
  std::snprintf(digits, sizeof digits, "%.*f", int(precision), value);
  return std::strtod(digits, nullptr);
}

Value round(const Value& value, const Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  require_defined(value);
  if (!value.is_number()) refuse("round() expects a number, not " + type_name(value));
  const int64_t precision = bound.integer_or(0, 0);
  const std::string method = bound.has(1) ? bound.text(1) : "common";
  if (method == "common") {
    if (value.is<double>()) return number(rounded(value.number(), precision));
    return precision < 0 ? (unsupported("round() to a negative precision"), Value()) : integer(value.integer());
  }
  if (method != "ceil" && method != "floor") refuse("method must be common, ceil or floor");
  const double scale = std::pow(10.0, double(precision)), scaled = value.number() * scale;
  return number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

// tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)
Value json(const Value& value, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = bound.truth_or(0, false);
  style.sorted = bound.truth_or(3, false);
  if (bound.given(1)) {
    const bool is_text = bound.at(1).is_text();
    style.indent =
        is_text ? bound.text(1) : std::string(size_t(std::clamp<int64_t>(bound.integer_or(1, 0), 0, 10'000)), ' ');
    style.item_separator = ",";
  }
  if (bound.given(2)) {
    const Values both = elements(bound.at(2));
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text())
      refuse("tojson() expects two texts as 'separators'");
    style.item_separator = both[0].text(), style.key_separator = both[1].text();
  }
  return text(to_json(value, style));
}

Value attribute_of(const Value& value, const Arguments& arguments) {
  const Bound bound("attr", arguments, {"name"}, 1);
  const std::string& name = bound.text(0);
  require_defined(value);
  const bool there = value.object() ? (*value.object())->attribute(name).has_value() : bool(find_method(value, name));
  return there ? attribute(value, name)
               : undefined("'" + type_name(value) + " object' has no attribute '" + name + "'");
}

constexpr Filter kFilters[] = {{"upper", changed<python::upper>},
                               {"lower", changed<python::lower>},
                               {"capitalize", changed<python::capitalize>},
                               {"title", changed<title>},
                               {"trim", as_method<kStrip>},
                               {"center", center},
                               {"string", as_text},
                               {"safe", safe},
                               {"escape", escape},
                               {"e", escape},
                               {"forceescape", force_escape},
                               {"default", otherwise},
                               {"d", otherwise},
                               {"replace", replace},
                               {"format", format},
                               {"indent", indent},
                               {"truncate", truncate},
                               {"wordcount", word_count},
                               {"int", to_integer},
                               {"float", to_float},
                               {"abs", absolute},
                               {"round", round},
                               {"tojson", json},
                               {"attr", attribute_of},
                               {"filesizeformat", nullptr},
                               {"pprint", nullptr},
                               {"random", nullptr},
                               {"striptags", nullptr},
                               {"urlencode", nullptr},
                               {"urlize", nullptr},
                               {"wordwrap", nullptr},
                               {"xmlattr", nullptr}};

const Filter* find_filter(std::string_view name) {
  for (const auto half : {scalar_filters(), sequence_filters()})
    for (const Filter& filter : half)
      if (filter.name == name) return &filter;
  return nullptr;
}

}  // namespace

std::span<const Filter> scalar_filters() { return kFilters; }

bool is_filter_name(std::string_view name) { return find_filter(name) != nullptr; }

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments) {
  const Filter* filter = find_filter(name);
  if (!filter) refuse("no filter named '" + std::string(name) + "'");
  if (!filter->apply) unsupported("the filter '" + std::string(name) + "'");
  return filter->apply(value, arguments);
}

}  // namespace fulgur::jinja
