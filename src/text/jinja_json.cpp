#include "text/jinja_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/python_text.h"
#include "text/unicode.h"

namespace fulgur::jinja {
namespace {

using Json = nlohmann::ordered_json;

void append_escaped(uint32_t c, std::string& out) {
  char escaped[8];
  std::snprintf(escaped, sizeof escaped, "\\u%04x", c & 0xFFFF);
  out += escaped;
}

void append_text(const std::string& text, bool ascii, std::string& out) {
  out += '"';
  for (const auto character : python::characters(text)) {
    uint8_t bytes;
    const uint32_t c = code_point_at(character.data(), bytes);
    if (c == '"' || c == '\\') (out += '\\') += char(c);
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else if (c == '\b') out += "\\b";
    else if (c == '\f') out += "\\f";
    else if (c < ' ' || (ascii && c > '~' && c < 0x10000)) append_escaped(c, out);
    else if (ascii && c >= 0x10000) {
      append_escaped(0xD800 + ((c - 0x10000) >> 10), out);
      append_escaped(0xDC00 + ((c - 0x10000) & 0x3FF), out);
    } else out += character;
  }
  out += '"';
}

std::string number_text(const Value& value) {
  if (!value.is<double>()) return std::to_string(value.integer());
  const double number = value.number();
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
  return python::shortest(number);
}

// The text of a scalar, as a value and, in quotes, as a key.
std::string scalar_text(const Value& value) {
  if (value.is_none()) return "null";
  if (value.is<bool>()) return value.integer() ? "true" : "false";
  return number_text(value);
}

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}
  std::string take() { return std::move(out_); }

  void write(const Value& value) {
    if (value.is_text()) append_text(value.text(), style_.ascii, out_);
    else if (value.is_none() || value.is_number()) out_ += scalar_text(value);
    else if (value.mapping()) write_mapping(*value.mapping());
    else if (value.sequence() && value.sequence()->kind <= SequenceKind::tuple) write_list(value.sequence()->values);
    else refuse("Object of type " + type_name(value) + " is not JSON serializable");
    if (out_.size() > kLongestText) unsupported("JSON of more than " + std::to_string(kLongestText) + " bytes");
  }

 private:
  void next_line() {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < level_; ++i) out_ += *style_.indent;
  }

  void begin_item(bool first) {
    if (!first) out_ += style_.item_separator;
    next_line();
  }

  void write_list(const Values& values) {
    if (values.empty()) return void(out_ += "[]");
    out_ += '[', ++level_;
    for (size_t i = 0; i < values.size(); ++i) begin_item(i == 0), write(values[i]);
    --level_, next_line(), out_ += ']';
  }

  void write_mapping(const Mapping& mapping) {
    if (mapping.entries.empty()) return void(out_ += "{}");
    Entries entries = mapping.entries;
    if (style_.sorted)
      std::stable_sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return less(a.first, b.first); });
    out_ += '{', ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      begin_item(i == 0);
      write_key(entries[i].first);
      out_ += style_.key_separator;
      write(entries[i].second);
    }
    --level_, next_line(), out_ += '}';
  }

  void write_key(const Value& key) {
    if (key.is_text()) return append_text(key.text(), style_.ascii, out_);
    if (!key.is_none() && !key.is_number()) refuse("keys must be str, int, float, bool or None, not " + type_name(key));
    out_ += '"' + scalar_text(key) + '"';
  }

  const JsonStyle& style_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

Value from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean: return boolean(json.get<bool>());
    case Json::value_t::number_integer: return integer(json.get<int64_t>());
    case Json::value_t::number_float: return number(json.get<double>());
    case Json::value_t::string: return text(json.get<std::string>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > uint64_t(INT64_MAX)) unsupported("the integer " + json.dump() + ", beyond 64 bits");
      return integer(json.get<int64_t>());
    case Json::value_t::array: {
      Values values;
      for (const Json& element : json) values.push_back(from_json(element));
      return list(std::move(values));
    }
    case Json::value_t::object: {
      Entries entries;
      for (const auto& [key, value] : json.items()) entries.emplace_back(text(key), from_json(value));
      return mapping(std::move(entries));
    }
    default: return none();
  }
}

std::string to_json(const Value& value, const JsonStyle& style) {
  Writer writer(style);
  writer.write(value);
  return writer.take();
}

}  // namespace fulgur::jinja
