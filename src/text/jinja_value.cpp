#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

struct TypeName {
  std::string operator()(const Undefined&) const { return "Undefined"; }
  std::string operator()(const None&) const { return "NoneType"; }
  std::string operator()(bool) const { return "bool"; }
  std::string operator()(int64_t) const { return "int"; }
  std::string operator()(double) const { return "float"; }
  std::string operator()(const Text& value) const { return value.markup ? "Markup" : "str"; }
  std::string operator()(const std::shared_ptr<const Sequence>& value) const {
    static const char* names[] = {"list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "generator"};
    return names[int(value->kind)];
  }
  std::string operator()(const std::shared_ptr<const Mapping>&) const { return "dict"; }
  std::string operator()(const std::shared_ptr<Object>& value) const { return value->type_name(); }
};

// Holds every int64 and every double.
long double exact(const Value& value) {
  return value.is_integer() ? static_cast<long double>(value.integer()) : static_cast<long double>(value.number());
}

bool equal_sequences(const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.kind != b.kind || a.generator || a.kind == SequenceKind::values) return false;
  if (a.kind == SequenceKind::keys || a.kind == SequenceKind::items) unsupported("comparing views of dictionaries");
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(), b.values.end(), equal);
}

bool equal_mappings(const Mapping& a, const Mapping& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const Value* other = b.find(entry.first);
    return other && equal(entry.second, *other);
  });
}

Extent around(const Values& values) {
  Extent whole;
  for (const Value& value : values) {
    const Extent part = extent(value);
    whole.depth = std::max(whole.depth, part.depth);
    whole.count += part.count;
  }
  if (++whole.depth > kDeepestValue) unsupported("values nested more than " + std::to_string(kDeepestValue) + " deep");
  if (whole.count > kLargestValue)
    unsupported("a list or dict of more than " + std::to_string(kLargestValue) + " values");
  return whole;
}

void require_short(const std::string& text) {
  if (text.size() > kLongestText) unsupported("a text of more than " + std::to_string(kLongestText) + " bytes");
}

std::string joined(const Values& values, bool lone_comma) {
  std::string line;
  for (const Value& value : values) {
    line += (line.empty() ? "" : ", ") + to_repr(value);
    require_short(line);
  }
  return lone_comma && values.size() == 1 ? line + "," : line;
}

std::string shown(const Sequence& sequence) {
  switch (sequence.kind) {
    case SequenceKind::list: return "[" + joined(sequence.values, false) + "]";
    case SequenceKind::tuple: return "(" + joined(sequence.values, true) + ")";
    case SequenceKind::range: return sequence.shown;
    case SequenceKind::keys: return "dict_keys([" + joined(sequence.values, false) + "])";
    case SequenceKind::values: return "dict_values([" + joined(sequence.values, false) + "])";
    case SequenceKind::items: return "dict_items([" + joined(sequence.values, false) + "])";
    case SequenceKind::generator: break;
  }
  unsupported("printing a generator; add `| list`");
}

std::string shown(const Mapping& mapping) {
  std::string line;
  for (const auto& [key, value] : mapping.entries) {
    line += (line.empty() ? "" : ", ") + to_repr(key) + ": " + to_repr(value);
    require_short(line);
  }
  return "{" + line + "}";
}

}  // namespace

void refuse(const std::string& what) { throw Problem(ErrorKind::invalid_input, what); }
void unsupported(const std::string& what) { throw Problem(ErrorKind::unsupported, "not supported: " + what); }

Value::Value() : data_(Undefined{}) {}

int64_t Value::integer() const {
  const bool* truth = std::get_if<bool>(&data_);
  return truth ? int64_t(*truth) : std::get<int64_t>(data_);
}

double Value::number() const { return is<double>() ? std::get<double>(data_) : double(integer()); }

const Sequence* Value::sequence() const {
  const auto* held = std::get_if<std::shared_ptr<const Sequence>>(&data_);
  return held ? held->get() : nullptr;
}

const Mapping* Value::mapping() const {
  const auto* held = std::get_if<std::shared_ptr<const Mapping>>(&data_);
  return held ? held->get() : nullptr;
}

Value undefined(std::string why) { return Value(Undefined{std::make_shared<const std::string>(std::move(why))}); }
Value none() { return Value(None{}); }
Value boolean(bool value) { return Value(value); }
Value integer(int64_t value) { return Value(value); }
Value number(double value) { return Value(value); }

Value text(std::string bytes, bool markup) {
  require_short(bytes);
  return Value(Text{std::make_shared<const std::string>(std::move(bytes)), markup});
}

Value sequence(SequenceKind kind, Values values) {
  const Extent extent = around(values);
  return Value(std::make_shared<const Sequence>(Sequence{kind, std::move(values), extent, {}, {}}));
}

struct Generator {
  std::function<Values()> begin;
  std::function<std::optional<Value>(const Value&)> step;
  Values input;
  size_t at = 0;
};

Value generator(const Values& held, std::function<Values()> begin,
                std::function<std::optional<Value>(const Value&)> step) {
  auto made = std::make_shared<Generator>(Generator{std::move(begin), std::move(step), {}});
  return Value(
      std::make_shared<const Sequence>(Sequence{SequenceKind::generator, {}, around(held), {}, std::move(made)}));
}

std::optional<Value> next(Generator& generator) {
  if (const auto begin = std::exchange(generator.begin, nullptr)) generator.input = begin();
  while (generator.at < generator.input.size())
    if (auto made = generator.step(generator.input[generator.at++])) return made;
  return std::nullopt;
}

Value range(int64_t start, int64_t stop, int64_t step) {
  constexpr int64_t kLongest = 100'000;
  if (step == 0) refuse("range() arg 3 must not be zero");
  Values values;
  for (__int128 i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (int64_t(values.size()) == kLongest) refuse("range too big, at most " + std::to_string(kLongest) + " elements");
    values.push_back(integer(int64_t(i)));
  }
  std::string shown = "range(" + std::to_string(start) + ", " + std::to_string(stop);
  shown += step == 1 ? ")" : ", " + std::to_string(step) + ")";
  const Extent extent = around(values);
  return Value(
      std::make_shared<const Sequence>(Sequence{SequenceKind::range, std::move(values), extent, std::move(shown), {}}));
}

Value mapping(Entries entries) {
  Mapping made;
  Values values;
  for (auto& [key, value] : entries) {
    if (!is_hashable(key)) refuse("unhashable type: '" + type_name(key) + "'");
    values.push_back(value);
    if (const Value* there = made.find(key)) *const_cast<Value*>(there) = std::move(value);
    else made.entries.emplace_back(std::move(key), std::move(value));
  }
  made.extent = around(values);
  return Value(std::make_shared<const Mapping>(std::move(made)));
}

const Value* Mapping::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name.is_text() && name.text() == key) return &value;
  return nullptr;
}

const Value* Mapping::find(const Value& key) const {
  if (key.is_text()) return find(std::string_view(key.text()));
  for (const auto& [name, value] : entries)
    if (equal(name, key)) return &value;
  return nullptr;
}

std::string Object::shown() const { unsupported("printing a " + type_name()); }
std::optional<Value> Object::attribute(const std::string&) { return std::nullopt; }
Value Object::call(const Arguments&) { refuse("'" + type_name() + "' object is not callable"); }

std::optional<Value> Namespace::attribute(const std::string& name) {
  for (const auto& [known, value] : variables)
    if (known == name) return value;
  return std::nullopt;
}

void Namespace::set(const std::string& name, Value value) {
  for (auto& [known, held] : variables)
    if (known == name) return void(held = std::move(value));
  variables.emplace_back(name, std::move(value));
}

std::string Namespace::shown() const {
  Entries entries;
  for (const auto& [name, value] : variables) {
    if (value.object()) unsupported("printing a Namespace that holds a " + jinja::type_name(value));
    entries.emplace_back(text(name), value);
  }
  return "<Namespace " + to_repr(mapping(std::move(entries))) + ">";
}

std::string type_name(const Value& value) { return std::visit(TypeName{}, value.data()); }

Extent extent(const Value& value) {
  if (const Sequence* held = value.sequence()) return held->extent;
  if (const Mapping* held = value.mapping()) return held->extent;
  return value.object() ? (*value.object())->extent() : Extent{};
}

void require_defined(const Value& value) {
  if (const auto* held = std::get_if<Undefined>(&value.data())) refuse(held->why ? *held->why : "undefined value");
}

bool truth(const Value& value) {
  if (value.is_number()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (const Sequence* held = value.sequence()) return held->kind == SequenceKind::generator || !held->values.empty();
  if (const Mapping* held = value.mapping()) return !held->entries.empty();
  return bool(value.object());
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return exact(a) == exact(b);
  if (a.data().index() != b.data().index()) return false;
  if (a.is_text()) return a.text() == b.text();
  if (a.sequence()) return equal_sequences(*a.sequence(), *b.sequence());
  if (a.mapping()) return equal_mappings(*a.mapping(), *b.mapping());
  if (a.object()) return *a.object() == *b.object();
  return true;  // both None, both undefined
}

bool less(const Value& a, const Value& b) {
  require_defined(a), require_defined(b);
  if (a.is_number() && b.is_number()) return exact(a) < exact(b);
  if (a.is_text() && b.is_text()) return a.text() < b.text();
  const Sequence *left = a.sequence(), *right = b.sequence();
  if (left && right && left->kind == right->kind && left->kind <= SequenceKind::tuple) {
    const auto [x, y] =
        std::mismatch(left->values.begin(), left->values.end(), right->values.begin(), right->values.end(), equal);
    if (x == left->values.end() || y == right->values.end()) return left->values.size() < right->values.size();
    return less(*x, *y);
  }
  refuse("'<' not supported between instances of '" + type_name(a) + "' and '" + type_name(b) + "'");
}

bool contains(const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) refuse("'in <string>' requires string as left operand, not " + type_name(item));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (const Mapping* held = container.mapping()) {
    if (!is_hashable(item)) refuse("unhashable type: '" + type_name(item) + "'");
    return held->find(item) != nullptr;
  }
  if (!container.sequence() && !container.is_undefined())
    refuse("argument of type '" + type_name(container) + "' is not iterable");
  const Values all = elements(container);
  return std::any_of(all.begin(), all.end(), [&](const Value& value) { return equal(value, item); });
}

Values elements(const Value& value) {
  Values all;
  if (const Sequence* held = value.sequence()) {
    if (!held->generator) return held->values;
    while (auto element = next(*held->generator)) all.push_back(std::move(*element));
    return all;
  }
  if (const Mapping* held = value.mapping()) {
    for (const auto& entry : held->entries) all.push_back(entry.first);
  } else if (value.is_text()) {
    for (const auto character : python::characters(value.text()))
      all.push_back(text(std::string(character), value.is_markup()));
  } else if (!value.is_undefined()) {
    refuse("'" + type_name(value) + "' object is not iterable");
  }
  return all;
}

int64_t length(const Value& value) {
  if (value.is_text()) return python::length(value.text());
  if (value.mapping()) return int64_t(value.mapping()->entries.size());
  if (value.is_undefined()) return 0;
  const Sequence* held = value.sequence();
  if (!held || held->kind == SequenceKind::generator) refuse("object of type '" + type_name(value) + "' has no len()");
  return int64_t(held->values.size());
}

bool is_hashable(const Value& value) {
  const Sequence* held = value.sequence();
  if (held && held->kind == SequenceKind::tuple)
    return std::all_of(held->values.begin(), held->values.end(), is_hashable);
  return !value.mapping() && !(held && held->kind != SequenceKind::range && held->kind != SequenceKind::generator);
}

std::string to_text(const Value& value) {
  if (value.is_undefined()) return {};
  return value.is_text() ? value.text() : to_repr(value);
}

std::string to_repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (value.is<bool>()) return value.integer() ? "True" : "False";
  if (value.is_integer()) return std::to_string(value.integer());
  if (value.is<double>()) return python::shortest(value.number());
  if (value.is_text())
    return value.is_markup() ? "Markup(" + python::quoted(value.text()) + ")" : python::quoted(value.text());
  if (value.sequence()) return shown(*value.sequence());
  return value.mapping() ? shown(*value.mapping()) : (*value.object())->shown();
}

std::string escaped_for_html(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&') result += "&amp;";
    else if (c == '<') result += "&lt;";
    else if (c == '>') result += "&gt;";
    else if (c == '"') result += "&#34;";
    else if (c == '\'') result += "&#39;";
    else result += c;
  }
  return result;
}

}  // namespace fulgur::jinja
