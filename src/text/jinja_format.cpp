#include "text/jinja_format.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_access.h"
#include "text/jinja_literal.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

// How one value is laid out; both ways of formatting read theirs into it.
struct Layout {
  std::string fill = " ";
  char align = 0;       // < > ^, = between sign and digits; 0: the type's own
  char sign = '-';      // + or space: before positive numbers
  bool prefix = false;  // 0x, 0o, 0b
  bool thousands = false;
  int width = 0, precision = -1;  // -1: none
  char type = 0;                  // 0: the type's own
};

constexpr int kWidest = 10'000;

std::string padded(const std::string& body, const Layout& layout, char otherwise) {
  const int64_t missing = layout.width - python::length(body);
  const char align = layout.align ? layout.align : otherwise;
  int64_t before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string all;
  size_t digits = 0;  // where the sign and prefix end
  if (align == '=') {
    digits = body.find_first_not_of("+- ");
    if (digits == body.npos) digits = 0;
    if (layout.prefix && body.substr(digits).size() > 2 && body[digits] == '0' && std::isalpha(body[digits + 1]))
      digits += 2;
    all = body.substr(0, digits);
  }
  for (int64_t i = 0; i < before; ++i) all += layout.fill;
  all += body.substr(digits);
  for (int64_t i = before; i < missing; ++i) all += layout.fill;
  return all;
}

std::string with_thousands(std::string digits) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (size_t at = whole; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string signed_text(bool negative, const std::string& digits, char sign) {
  return (negative ? "-" : sign == '-' ? "" : std::string(1, sign)) + digits;
}

std::string integer_digits(uint64_t magnitude, const Layout& layout) {
  const char type = layout.type;
  const unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  const std::string_view symbols = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string digits;
  for (uint64_t rest = magnitude; rest > 0 || digits.empty(); rest /= base) digits += symbols[rest % base];
  std::reverse(digits.begin(), digits.end());
  if (int(digits.size()) < layout.precision) digits.insert(0, size_t(layout.precision) - digits.size(), '0');
  if (layout.thousands) digits = with_thousands(digits);
  return layout.prefix && base != 10 ? std::string("0") + type + digits : digits;
}

std::string integer_text(const Value& value, const Layout& layout) {
  const int64_t whole = value.integer();
  const uint64_t magnitude = whole < 0 ? 0 - uint64_t(whole) : uint64_t(whole);
  return padded(signed_text(whole < 0, integer_digits(magnitude, layout), layout.sign), layout, '>');
}

std::string float_text(double value, const Layout& layout) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::fabs(value);
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
    if (std::isupper(layout.type)) digits = python::upper(digits);
  } else if (layout.type == 0 && layout.precision < 0) {
    digits = python::shortest(magnitude);
  } else {
    if (layout.type == 0) unsupported("a precision without a type for a float");
    const char type = layout.type == '%' ? 'f' : layout.type;
    const std::string form = std::string(layout.prefix ? "%#.*" : "%.*") + type;
    digits.resize(size_t(std::max(layout.precision, 6)) + 400);
    const double shown = layout.type == '%' ? magnitude * 100 : magnitude;
    const int precision = layout.precision < 0 ? 6 : layout.precision;
    digits.resize(size_t(std::snprintf(digits.data(), digits.size(), form.c_str(), precision, shown)));
    if (layout.type == '%') digits += '%';
  }
  if (layout.thousands) digits = with_thousands(digits);
  return padded(signed_text(negative, digits, layout.sign), layout, '>');
}

std::string plain_text(const std::string& bytes, const Layout& layout) {
  if (layout.precision < 0 || layout.precision >= python::length(bytes)) return padded(bytes, layout, '<');
  std::string cut;
  const auto all = python::characters(bytes);
  for (int i = 0; i < layout.precision; ++i) cut += all[size_t(i)];
  return padded(cut, layout, '<');
}

int read_number(std::string_view text, size_t& at, const char* what) {
  int number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > kWidest) unsupported(std::string(what) + " of more than " + std::to_string(kWidest));
  }
  return number;
}

// The values of `format % arguments`, given out one by one.
class PercentArguments {
 public:
  explicit PercentArguments(const Value& arguments) : all_(arguments) {
    const Sequence* held = arguments.sequence();
    if (held && held->kind == SequenceKind::tuple) values_ = held->values;
    else values_ = {arguments};
  }

  Value next() {
    if (next_ == values_.size()) refuse("not enough arguments for format string");
    return values_[next_++];
  }

  Value named(const std::string& name) {
    named_ = true;
    if (!all_.mapping()) refuse("format requires a mapping");
    const Value* found = all_.mapping()->find(name);
    if (!found) refuse("the format names '" + name + "', which is no key");
    return *found;
  }

  void require_used() const {
    if (!named_ && next_ < values_.size() && !all_.mapping() && !(next_ == 0 && all_.sequence() && values_.size() == 1))
      refuse("not all arguments converted during string formatting");
  }

 private:
  const Value& all_;
  Values values_;
  size_t next_ = 0;
  bool named_ = false;
};

// Flags, width and precision after a %; `at` moves behind them.
Layout percent_layout(std::string_view format, size_t& at) {
  Layout layout;
  for (; at < format.size(); ++at) {
    if (format[at] == '-') layout.align = '<';
    else if (format[at] == '+') layout.sign = '+';
    else if (format[at] == ' ' && layout.sign != '+') layout.sign = ' ';
    else if (format[at] == '#') layout.prefix = true;
    else if (format[at] == '0') layout.fill = "0";
    else if (format[at] != ' ') break;
  }
  if (layout.align == '<') layout.fill = " ";
  else layout.align = layout.fill == "0" ? '=' : '>';
  if (at < format.size() && format[at] == '*') unsupported("'*' in a % format");
  layout.width = read_number(format, at, "a width");
  if (at < format.size() && format[at] == '.') layout.precision = read_number(format, ++at, "a precision");
  return layout;
}

std::string percent_number(const Value& value, Layout layout) {
  require_defined(value);
  if (!value.is_number())
    refuse(std::string("%") + layout.type + " format: a number is required, not " + type_name(value));
  if (std::string_view("feEgGF").find(layout.type) != std::string_view::npos) return float_text(value.number(), layout);
  const bool decimal = std::string_view("diu").find(layout.type) != std::string_view::npos;
  if (decimal) layout.type = 'd';
  if (value.is_integer()) return integer_text(value, layout);
  if (!decimal) refuse(std::string("%") + layout.type + " format: an integer is required, not float");
  if (!(std::fabs(value.number()) < 9.2e18)) unsupported("an integer beyond 64 bits in a % format");
  return integer_text(integer(int64_t(value.number())), layout);
}

std::string percent_text(const Value& value, Layout layout, bool markup) {
  if (layout.fill == "0") layout.fill = " ", layout.align = '>';
  std::string bytes = layout.type == 's' ? to_text(value) : to_repr(value);
  if (layout.type == 'a') unsupported("%a in a format");
  if (layout.type == 'c') {
    if (!value.is_text() || python::length(value.text()) != 1) unsupported("%c of anything but one character");
    bytes = value.text();
  }
  if (markup && !value.is_markup()) bytes = escaped_for_html(bytes);
  return plain_text(bytes, layout);
}

// ---- str.format ----

Layout read_layout(const std::string& spec) {
  Layout layout;
  const auto all = python::characters(spec);
  const auto is_align = [](std::string_view c) { return c.size() == 1 && std::string_view("<>^=").find(c) != c.npos; };
  size_t at = 0;
  if (all.size() > 1 && is_align(all[1])) layout.fill = all[0], layout.align = all[1][0], at = all[0].size() + 1;
  else if (!all.empty() && is_align(all[0])) layout.align = all[0][0], at = 1;
  const auto skip = [&](char c) { return at < spec.size() && spec[at] == c && ++at; };
  for (const char sign : {'+', '-', ' '})
    if (skip(sign)) layout.sign = sign;
  layout.prefix = skip('#');
  if (skip('0') && !layout.align) layout.fill = "0", layout.align = '=';
  layout.width = read_number(spec, at, "a width");
  layout.thousands = skip(',');
  if (skip('.')) layout.precision = read_number(spec, at, "a precision");
  if (at < spec.size()) layout.type = spec[at++];
  if (at < spec.size()) unsupported("the format '" + spec + "'");
  return layout;
}

std::string laid_out(const Value& value, const std::string& spec) {
  if (spec.empty()) return to_text(value);
  Layout layout = read_layout(spec);
  const auto is_type = [&](std::string_view types) { return types.find(layout.type) != types.npos; };
  if (value.is_text() && (layout.type == 0 || layout.type == 's') && layout.align != '=' && !layout.thousands)
    return plain_text(value.text(), layout);
  if (value.is<bool>() && layout.type == 0) return plain_text(to_text(value), layout);
  if (value.is_integer() && (layout.type == 0 || is_type("dxXob")) && layout.precision < 0) {
    if (layout.type == 0) layout.type = 'd';
    return integer_text(value, layout);
  }
  if (value.is_number() && (layout.type == 0 || is_type("eEfFgG%"))) return float_text(value.number(), layout);
  if (value.is_text() || value.is_number())
    refuse("format code '" + spec + "' for an object of type '" + type_name(value) + "'");
  refuse("unsupported format string '" + spec + "' for an object of type '" + type_name(value) + "'");
}

// {field!conversion:spec}
class FieldReader {
 public:
  explicit FieldReader(const Arguments& arguments) : arguments_(arguments) {}

  std::string shown(std::string_view field) {
    const size_t colon = field.find(':'), mark = field.substr(0, colon).find('!');
    const std::string spec(colon == field.npos ? "" : field.substr(colon + 1));
    if (spec.find('{') != spec.npos) unsupported("a format inside a format");
    const std::string_view conversion =
        mark == field.npos ? "" : field.substr(mark + 1, std::min(colon, field.size()) - mark - 1);
    const Value value = found(std::string(field.substr(0, std::min({colon, mark, field.size()}))));
    if (conversion.empty()) return laid_out(value, spec);
    if (conversion != "r" && conversion != "s") unsupported("the conversion '!" + std::string(conversion) + "'");
    return laid_out(text(conversion == "r" ? to_repr(value) : to_text(value)), spec);
  }

 private:
  Value found(const std::string& name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, end));
    for (size_t at = end; at < name.size();) {
      if (name[at] == '.') {
        const size_t next = std::min(name.find_first_of(".[", at + 1), name.size());
        value = attribute(value, name.substr(at + 1, next - at - 1));
        at = next;
      } else {
        const size_t close = name.find(']', at);
        if (close == name.npos) refuse("expected '}' before end of string");
        const std::string key = name.substr(at + 1, close - at - 1);
        value = item(value, python::has_property(key, "isdigit") ? integer_of(key, 10).value_or(text(key)) : text(key));
        at = close + 1;
      }
      require_defined(value);
    }
    return value;
  }

  Value argument(const std::string& name) {
    if (name.empty() || python::has_property(name, "isdigit")) {
      if (automatic_ && *automatic_ != name.empty()) refuse("a format mixes {} with numbered fields");
      automatic_ = name.empty();
      const auto number = name.empty() ? integer(next_++) : integer_of(name, 10).value_or(integer(-1));
      if (uint64_t(number.integer()) >= arguments_.positional.size())
        refuse("a format asks for argument " + to_text(number) + " of " + std::to_string(arguments_.positional.size()));
      return arguments_.positional[size_t(number.integer())];
    }
    for (const auto& [known, value] : arguments_.named)
      if (known == name) return value;
    refuse("a format names '" + name + "', which is no argument");
  }

  const Arguments& arguments_;
  std::optional<bool> automatic_;
  int64_t next_ = 0;
};

}  // namespace

Value percent_format(const Value& format, const Value& arguments) {
  const std::string& bytes = format.text();
  PercentArguments values(arguments);
  std::string all;
  for (size_t at = 0; at < bytes.size(); ++at) {
    if (all.size() > kLongestText) break;  // refused by text()
    if (bytes[at] != '%') {
      all += bytes[at];
      continue;
    }
    std::optional<Value> value;
    if (++at < bytes.size() && bytes[at] == '(') {
      const size_t close = bytes.find(')', at);
      if (close == bytes.npos) refuse("incomplete format key");
      value = values.named(bytes.substr(at + 1, close - at - 1));
      at = close + 1;
    }
    Layout layout = percent_layout(bytes, at);
    if (at >= bytes.size()) refuse("incomplete format");
    layout.type = bytes[at];
    if (layout.type == '%') {
      all += '%';
      continue;
    }
    const bool is_text = std::string_view("srac").find(layout.type) != std::string_view::npos;
    if (!is_text && std::string_view("diuoxXeEfFgG").find(layout.type) == std::string_view::npos)
      refuse(std::string("unsupported format character '") + layout.type + "'");
    if (!value) value = values.next();
    all += is_text ? percent_text(*value, layout, format.is_markup()) : percent_number(*value, layout);
  }
  values.require_used();
  return text(std::move(all), format.is_markup());
}

Value text_format(const Value& format, const Arguments& arguments) {
  if (format.is_markup()) unsupported("format() of a text that `safe` or `escape` has made");
  const std::string& bytes = format.text();
  FieldReader fields(arguments);
  std::string all;
  for (size_t at = 0; at < bytes.size(); ++at) {
    if (all.size() > kLongestText) break;  // refused by text()
    const char c = bytes[at];
    if (c != '{' && c != '}') {
      all += c;
      continue;
    }
    if (at + 1 < bytes.size() && bytes[at + 1] == c) {
      all += bytes[++at];
      continue;
    }
    const size_t close = bytes.find('}', at);
    if (c == '}' || close == bytes.npos) refuse(std::string("single '") + c + "' encountered in format string");
    all += fields.shown(std::string_view(bytes).substr(at + 1, close - at - 1));
    at = close;
  }
  return text(std::move(all));
}

}  // namespace fulgur::jinja
