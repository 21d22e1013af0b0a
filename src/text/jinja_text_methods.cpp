// The methods of Python's str.
#include <algorithm>

#include "text/jinja_arguments.h"
#include "text/jinja_format.h"
#include "text/jinja_methods.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

using python::Side;

// The text of the same kind as `object`.
Value like(const Value& object, std::string bytes) { return text(std::move(bytes), object.is_markup()); }

Value list_like(const Value& object, python::Pieces pieces) {
  Values all;
  for (std::string& piece : pieces) all.push_back(like(object, std::move(piece)));
  return list(std::move(all));
}

// An argument of a method of `object`, escaped where the text is markup and the argument is not.
std::string merged(const Value& object, const Bound& bound, size_t index) {
  const std::string& given = bound.text(index);
  return object.is_markup() && !bound.at(index).is_markup() ? escaped_for_html(given) : given;
}

template <Side side>
Value strip(const Value& object, const Arguments& arguments) {
  const Bound bound("strip", arguments, {"chars"});
  const std::string& bytes = object.text();
  return like(object,
              std::string(bound.given(0) ? python::strip(bytes, bound.text(0), side) : python::strip(bytes, side)));
}

template <python::Pieces (*splits)(std::string_view, std::string_view, int64_t)>
Value split(const Value& object, const Arguments& arguments) {
  const Bound bound("split", arguments, {"sep", "maxsplit"});
  const std::string separator = bound.given(0) ? bound.text(0) : "";
  if (bound.given(0) && separator.empty()) refuse("split() with an empty separator");
  return list_like(object, splits(object.text(), separator, bound.integer_or(1, -1)));
}

Value split_lines(const Value& object, const Arguments& arguments) {
  const Bound bound("splitlines", arguments, {"keepends"});
  return list_like(object, python::split_lines(object.text(), bound.truth_or(0, false)));
}

template <std::string (*changes)(std::string_view)>
Value changed(const Value& object, const Arguments& arguments) {
  const Bound bound("a method that changes case", arguments, {});
  return like(object, changes(object.text()));
}

Value replace(const Value& object, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const std::string old = merged(object, bound, 0), with = merged(object, bound, 1);
  return like(object, replaced(object.text(), old, with, bound.integer_or(2, -1)));
}

Value join(const Value& object, const Arguments& arguments) {
  const Bound bound("join", arguments, {"iterable"}, 1);
  std::string joined;
  bool first = true;
  for (const Value& part : elements(bound.at(0))) {
    const bool escaped = object.is_markup() && !part.is_markup();
    if (!part.is_text() && !escaped) refuse("join() expects texts, not " + type_name(part));
    if (!std::exchange(first, false)) joined += object.text();
    joined += escaped ? escaped_for_html(to_text(part)) : part.text();
    if (joined.size() > kLongestText) break;  // refused by text()
  }
  return like(object, std::move(joined));
}

// The part of the text that start and end choose, and where it begins in bytes; nothing if start lies behind the end.
struct Part {
  std::string_view bytes;
  int64_t begin;  // in code points
};
std::optional<Part> part_of(const std::string& bytes, const Bound& bound, size_t start, size_t end) {
  const int64_t count = python::length(bytes);
  const auto place = [&](size_t index, int64_t otherwise) {
    const int64_t at = bound.integer_or(index, otherwise);
    return std::max<int64_t>(at < 0 ? at + count : at, 0);
  };
  const int64_t first = place(start, 0), last = std::min(place(end, count), count);
  if (first > count || first > last) return std::nullopt;
  const auto all = python::characters(bytes);
  const auto offset = [&](int64_t at) {
    return at == count ? bytes.size() : size_t(all[size_t(at)].data() - bytes.data());
  };
  return Part{std::string_view(bytes).substr(offset(first), offset(last) - offset(first)), first};
}

template <bool at_start>
Value matches(const Value& object, const Arguments& arguments) {
  const Bound bound(at_start ? "startswith" : "endswith", arguments, {"affix", "start", "end"}, 1);
  const auto part = part_of(object.text(), bound, 1, 2);
  const Sequence* several = bound.at(0).sequence();
  if (several && several->kind != SequenceKind::tuple) refuse("startswith() expects a str or a tuple, not a list");
  const Values affixes = several ? several->values : Values{text(bound.text(0))};
  return boolean(std::any_of(affixes.begin(), affixes.end(), [&](const Value& affix) {
    if (!affix.is_text()) refuse("startswith() expects texts, not " + type_name(affix));
    return part && (at_start ? part->bytes.starts_with(affix.text()) : part->bytes.ends_with(affix.text()));
  }));
}

// In code points; -1: not there.
int64_t position(const Value& object, const Arguments& arguments, const char* name, bool last) {
  const Bound bound(name, arguments, {"sub", "start", "end"}, 1);
  const std::string& wanted = bound.text(0);
  const auto part = part_of(object.text(), bound, 1, 2);
  if (!part) return -1;
  const size_t at = last ? part->bytes.rfind(wanted) : part->bytes.find(wanted);
  return at == part->bytes.npos ? -1 : part->begin + python::length(part->bytes.substr(0, at));
}

Value find(const Value& object, const Arguments& arguments) {
  return integer(position(object, arguments, "find", false));
}
Value find_last(const Value& object, const Arguments& arguments) {
  return integer(position(object, arguments, "rfind", true));
}

template <bool last>
Value index(const Value& object, const Arguments& arguments) {
  const int64_t at = position(object, arguments, "index", last);
  if (at < 0) refuse("substring not found");
  return integer(at);
}

Value count(const Value& object, const Arguments& arguments) {
  const Bound bound("count", arguments, {"sub", "start", "end"}, 1);
  const auto part = part_of(object.text(), bound, 1, 2);
  const std::string& wanted = bound.text(0);
  if (!part) return integer(0);
  if (wanted.empty()) return integer(python::length(part->bytes) + 1);
  return integer(int64_t(python::split(part->bytes, wanted, -1).size()) - 1);
}

template <bool prefix>
Value without(const Value& object, const Arguments& arguments) {
  const Bound bound("removeprefix", arguments, {"affix"}, 1);
  std::string_view rest = object.text();
  const std::string& affix = bound.text(0);
  if (prefix && rest.starts_with(affix)) rest.remove_prefix(affix.size());
  else if (!prefix && rest.ends_with(affix)) rest.remove_suffix(affix.size());
  return like(object, std::string(rest));
}

template <bool last>
Value partition(const Value& object, const Arguments& arguments) {
  const Bound bound("partition", arguments, {"sep"}, 1);
  const std::string &bytes = object.text(), &separator = bound.text(0);
  if (separator.empty()) refuse("partition() with an empty separator");
  const size_t at = last ? bytes.rfind(separator) : bytes.find(separator);
  const auto three = [&](std::string a, std::string b, std::string c) {
    return tuple({like(object, std::move(a)), like(object, std::move(b)), like(object, std::move(c))});
  };
  if (at == bytes.npos) return last ? three("", "", bytes) : three(bytes, "", "");
  return three(bytes.substr(0, at), separator, bytes.substr(at + separator.size()));
}

// Spaces, or the given character, on the sides that `left` and `right` name.
template <bool left, bool right>
Value padded(const Value& object, const Arguments& arguments) {
  const Bound bound("a method that pads", arguments, {"width", "fillchar"}, 1);
  const std::string fill = bound.has(1) ? bound.text(1) : " ";
  if (python::length(fill) != 1) refuse("the fill character must be exactly one character long");
  const int64_t width = bound.integer_or(0, 0), missing = width - python::length(object.text());
  if (missing <= 0) return object;
  if (uint64_t(missing) > kLongestText) unsupported("a text of more than " + std::to_string(kLongestText) + " bytes");
  const int64_t before = left && right ? missing / 2 + (missing & width & 1) : left ? missing : 0;
  std::string all;
  for (int64_t i = 0; i < before; ++i) all += fill;
  all += object.text();
  for (int64_t i = before; i < missing; ++i) all += fill;
  return like(object, std::move(all));
}

Value zero_filled(const Value& object, const Arguments& arguments) {
  const Bound bound("zfill", arguments, {"width"}, 1);
  const int64_t missing = bound.integer_or(0, 0) - python::length(object.text());
  if (missing > int64_t(kLongestText)) unsupported("a text of more than " + std::to_string(kLongestText) + " bytes");
  std::string all = object.text();
  const size_t sign = all.starts_with('-') || all.starts_with('+') ? 1 : 0;
  if (missing > 0) all.insert(sign, size_t(missing), '0');
  return like(object, std::move(all));
}

template <const char* const& name>
Value property(const Value& object, const Arguments& arguments) {
  const Bound bound(name, arguments, {});
  return boolean(python::has_property(object.text(), name));
}

constexpr const char *kIsAscii = "isascii", *kIsSpace = "isspace", *kIsDigit = "isdigit", *kIsDecimal = "isdecimal",
                     *kIsNumeric = "isnumeric", *kIsAlpha = "isalpha", *kIsAlnum = "isalnum", *kIsUpper = "isupper",
                     *kIsLower = "islower";

constexpr Method kTextMethods[] = {{"strip", strip<Side::both>},
                                   {"lstrip", strip<Side::left>},
                                   {"rstrip", strip<Side::right>},
                                   {"split", split<python::split>},
                                   {"rsplit", split<python::split_from_right>},
                                   {"splitlines", split_lines},
                                   {"upper", changed<python::upper>},
                                   {"lower", changed<python::lower>},
                                   {"title", changed<python::title>},
                                   {"capitalize", changed<python::capitalize>},
                                   {"casefold", changed<python::casefold>},
                                   {"replace", replace},
                                   {"join", join},
                                   {"format", text_format},
                                   {"startswith", matches<true>},
                                   {"endswith", matches<false>},
                                   {"find", find},
                                   {"rfind", find_last},
                                   {"index", index<false>},
                                   {"rindex", index<true>},
                                   {"count", count},
                                   {"removeprefix", without<true>},
                                   {"removesuffix", without<false>},
                                   {"partition", partition<false>},
                                   {"rpartition", partition<true>},
                                   {"center", padded<true, true>},
                                   {"ljust", padded<false, true>},
                                   {"rjust", padded<true, false>},
                                   {"zfill", zero_filled},
                                   {"isascii", property<kIsAscii>},
                                   {"isspace", property<kIsSpace>},
                                   {"isdigit", property<kIsDigit>},
                                   {"isdecimal", property<kIsDecimal>},
                                   {"isnumeric", property<kIsNumeric>},
                                   {"isalpha", property<kIsAlpha>},
                                   {"isalnum", property<kIsAlnum>},
                                   {"isupper", property<kIsUpper>},
                                   {"islower", property<kIsLower>},
                                   {"swapcase", nullptr},
                                   {"encode", nullptr},
                                   {"expandtabs", nullptr},
                                   {"format_map", nullptr},
                                   {"isidentifier", nullptr},
                                   {"isprintable", nullptr},
                                   {"istitle", nullptr},
                                   {"maketrans", nullptr},
                                   {"translate", nullptr}};

}  // namespace

std::string replaced(const std::string& bytes, const std::string& old, const std::string& with, int64_t limit) {
  const size_t places = old.empty() ? bytes.size() + 1 : python::split(bytes, old, limit).size() - 1;
  if (!with.empty() && places > kLongestText / with.size())
    unsupported("a text of more than " + std::to_string(kLongestText) + " bytes");
  return python::replace(bytes, old, with, limit);
}

const Method* find_text_method(std::string_view name) {
  const auto found = std::find_if(std::begin(kTextMethods), std::end(kTextMethods),
                                  [&](const Method& method) { return method.name == name; });
  return found == std::end(kTextMethods) ? nullptr : found;
}

}  // namespace fulgur::jinja
