#include "text/jinja_arithmetic.h"

#include <cmath>

#include "text/jinja_format.h"

namespace fulgur::jinja {
namespace {

[[noreturn]] void refuse_operands(const std::string& sign, const Value& left, const Value& right) {
  require_defined(left), require_defined(right);
  if (sign == "+" && left.is_text() && !right.is_text())
    refuse("can only concatenate str (not \"" + type_name(right) + "\") to str");
  refuse("unsupported operand types for " + sign + ": '" + type_name(left) + "' and '" + type_name(right) + "'");
}

[[noreturn]] void too_large() { unsupported("integers beyond 64 bits"); }

void require_divisor(bool is_zero) {
  if (is_zero) refuse("division by zero");
}

int64_t floor_quotient(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) too_large();
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

double float_remainder(double a, double b) {  // with the sign of b
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

double floor_quotient(double a, double b) {
  const double quotient = (a - float_remainder(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double below = std::floor(quotient);
  return quotient - below > 0.5 ? below + 1 : below;
}

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    require_divisor(base == 0);
    return number(std::pow(double(base), double(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1 || exponent == 0) return integer(exponent == 0 ? 1 : base);
  if (base == -1) return integer(exponent % 2 ? -1 : 1);
  for (; exponent > 0; --exponent)
    if (__builtin_mul_overflow(result, base, &result)) too_large();
  return integer(result);
}

Value on_integers(const std::string& sign, int64_t a, int64_t b) {
  int64_t result;
  if (sign == "+") return __builtin_add_overflow(a, b, &result) ? (too_large(), Value()) : integer(result);
  if (sign == "-") return __builtin_sub_overflow(a, b, &result) ? (too_large(), Value()) : integer(result);
  if (sign == "*") return __builtin_mul_overflow(a, b, &result) ? (too_large(), Value()) : integer(result);
  if (sign == "**") return power(a, b);
  require_divisor(b == 0);
  if (sign == "/") {
    constexpr int64_t kExact = int64_t(1) << 53;  // beyond, Python rounds the quotient once and a double twice
    if (std::abs(double(a)) > double(kExact) || std::abs(double(b)) > double(kExact))
      unsupported("/ of integers beyond 53 bits");
    return number(double(a) / double(b));
  }
  const int64_t quotient = floor_quotient(a, b);
  return integer(sign == "//" ? quotient : a - quotient * b);
}

Value on_floats(const std::string& sign, double a, double b) {
  if (sign == "+") return number(a + b);
  if (sign == "-") return number(a - b);
  if (sign == "*") return number(a * b);
  if (sign == "**") {
    require_divisor(a == 0 && b < 0);
    const double result = std::pow(a, b);
    if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) unsupported("complex numbers");
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) refuse("numerical result out of range");
    return number(result);
  }
  require_divisor(b == 0);
  if (sign == "/") return number(a / b);
  return number(sign == "//" ? floor_quotient(a, b) : float_remainder(a, b));
}

Value repeated(const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_text()) {
    const std::string& once = value.text();
    if (!once.empty() && uint64_t(count) > kLongestText / once.size())
      unsupported("a text of more than " + std::to_string(kLongestText) + " bytes");
    std::string all;
    for (int64_t i = 0; i < (once.empty() ? 0 : count); ++i) all += once;
    return text(std::move(all), value.is_markup());
  }
  const Sequence& once = *value.sequence();
  if (!once.values.empty() && count > kLargestValue / int64_t(once.values.size()))
    unsupported("a list of more than " + std::to_string(kLargestValue) + " values");
  Values all;
  for (int64_t i = 0; i < (once.values.empty() ? 0 : count); ++i)
    all.insert(all.end(), once.values.begin(), once.values.end());
  return sequence(once.kind, std::move(all));
}

// A text, a list or a tuple.
bool is_repeatable(const Value& value) {
  return value.is_text() || (value.sequence() && value.sequence()->kind <= SequenceKind::tuple);
}

Value joined(const Value& left, const Value& right) {
  if (left.is_text()) {
    const bool markup = left.is_markup() || right.is_markup();
    const auto part = [&](const Value& value) {
      return markup && !value.is_markup() ? escaped_for_html(value.text()) : value.text();
    };
    return text(part(left) + part(right), markup);
  }
  Values all = left.sequence()->values;
  all.insert(all.end(), right.sequence()->values.begin(), right.sequence()->values.end());
  return sequence(left.sequence()->kind, std::move(all));
}

}  // namespace

Value arithmetic(const std::string& sign, const Value& left, const Value& right) {
  if (sign == "%" && left.is_text()) return percent_format(left, right);
  if (left.is_integer() && right.is_integer()) return on_integers(sign, left.integer(), right.integer());
  if (left.is_number() && right.is_number()) return on_floats(sign, left.number(), right.number());
  if (sign == "*" && is_repeatable(left) && right.is_integer()) return repeated(left, right.integer());
  if (sign == "*" && left.is_integer() && is_repeatable(right)) return repeated(right, left.integer());
  const bool same_kind = is_repeatable(left) && is_repeatable(right) && left.is_text() == right.is_text() &&
                         (left.is_text() || left.sequence()->kind == right.sequence()->kind);
  if (sign != "+" || !same_kind) refuse_operands(sign, left, right);
  return joined(left, right);
}

Value negated(const Value& value) {
  require_defined(value);
  if (value.is<double>()) return number(-value.number());
  if (!value.is_integer()) refuse("bad operand type for unary -: '" + type_name(value) + "'");
  return on_integers("-", 0, value.integer());
}

Value positive(const Value& value) {
  require_defined(value);
  if (!value.is_number()) refuse("bad operand type for unary +: '" + type_name(value) + "'");
  return value.is_integer() ? integer(value.integer()) : value;
}

bool compare(const std::string& sign, const Value& left, const Value& right) {
  if (sign == "==") return equal(left, right);
  if (sign == "!=") return !equal(left, right);
  if (sign == "in") return contains(right, left);
  if (sign == "not in") return !contains(right, left);
  const auto is_nan = [](const Value& value) { return value.is<double>() && std::isnan(value.number()); };
  const bool ordered = !is_nan(left) && !is_nan(right);
  if (sign == "<") return less(left, right);
  if (sign == ">") return less(right, left);
  return (sign == "<=" ? !less(right, left) : !less(left, right)) && ordered;
}

}  // namespace fulgur::jinja
