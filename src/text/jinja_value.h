// The values of a template, with Python's meaning: truth, equality, order, iteration. Nothing but a Namespace can
// change, as in the immutable sandbox that chat templates are written for.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace fulgur::jinja {

// What ends a rendering; whoever knows the template and the line turns it into an Error.
class Problem : public std::runtime_error {
 public:
  Problem(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// What Python would raise for this template and these messages.
[[noreturn]] void refuse(const std::string& what);
// What Python can and this program cannot.
[[noreturn]] void unsupported(const std::string& what);

// Bounds of one text, in bytes, and of one value: how deep values lie in each other, and all that lie in it, one that
// is there twice counted twice.
inline constexpr size_t kLongestText = size_t(64) << 20;
inline constexpr int kDeepestValue = 200;
inline constexpr int64_t kLargestValue = int64_t(4) << 20;

struct Extent {
  int depth = 0;
  int64_t count = 1;
};

struct Sequence;
struct Mapping;
struct Object;
class Value;
using Values = std::vector<Value>;
using Entries = std::vector<std::pair<Value, Value>>;  // in the order of insertion, no key twice

struct None {};
// Prints as nothing and is false; any other use is refused with `why`.
struct Undefined {
  std::shared_ptr<const std::string> why;
};
// Valid UTF-8. `markup`: made by `safe` or `escape`; what is added to it is escaped for HTML.
struct Text {
  std::shared_ptr<const std::string> bytes;
  bool markup = false;
};

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const Sequence>,
                            std::shared_ptr<const Mapping>, std::shared_ptr<Object>>;
  Value();  // undefined
  explicit Value(Data data) : data_(std::move(data)) {}

  const Data& data() const { return data_; }
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_text() const { return is<Text>(); }
  // bool counts as a number, as in Python.
  bool is_integer() const { return is<int64_t>() || is<bool>(); }
  bool is_number() const { return is_integer() || is<double>(); }

  const std::string& text() const { return *std::get<Text>(data_).bytes; }  // is_text
  bool is_markup() const { return is_text() && std::get<Text>(data_).markup; }
  int64_t integer() const;  // is_integer
  double number() const;    // is_number
  const Sequence* sequence() const;
  const Mapping* mapping() const;
  const std::shared_ptr<Object>* object() const { return std::get_if<std::shared_ptr<Object>>(&data_); }

 private:
  Data data_;
};

Value undefined(std::string why);
Value none();
Value boolean(bool value);
Value integer(int64_t value);
Value number(double value);
Value text(std::string bytes, bool markup = false);

enum class SequenceKind : uint8_t { list, tuple, range, keys, values, items, generator };

struct Generator;
struct Sequence {
  SequenceKind kind;
  Values values;  // none of a generator
  Extent extent;
  std::string shown;                     // of a range
  std::shared_ptr<Generator> generator;  // gives its elements once, none before it is asked
};

struct Mapping {
  Entries entries;
  Extent extent;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};

Value sequence(SequenceKind kind, Values values);
inline Value list(Values values) { return sequence(SequenceKind::list, std::move(values)); }
inline Value tuple(Values values) { return sequence(SequenceKind::tuple, std::move(values)); }
// The generator of what `step` makes of the elements that `begin` gives, less those for which it gives nothing. Both
// keep `held` and nothing else, and run when the first element is asked for.
Value generator(const Values& held, std::function<Values()> begin,
                std::function<std::optional<Value>(const Value&)> step);
// The next element of a generator; nothing at its end.
std::optional<Value> next(Generator& generator);
// range(start, stop, step) with at most 100,000 elements, as in the sandbox.
Value range(int64_t start, int64_t stop, int64_t step);
// A later entry of a key replaces the value of the earlier one.
Value mapping(Entries entries);

// Arguments of a call.
struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What has attributes of its own or can be called.
struct Object {
  virtual ~Object() = default;
  virtual std::string type_name() const = 0;
  virtual std::string shown() const;  // str(); unsupported where Python prints an address
  virtual std::optional<Value> attribute(const std::string& name);
  virtual bool is_callable() const { return false; }
  virtual Value call(const Arguments& arguments);
  virtual Extent extent() const { return {}; }
};

struct Namespace : Object {
  std::vector<std::pair<std::string, Value>> variables;
  std::string type_name() const override { return "Namespace"; }
  std::string shown() const override;
  std::optional<Value> attribute(const std::string& name) override;
  void set(const std::string& name, Value value);
};

std::string type_name(const Value& value);  // `str`, `list`, `NoneType` ...
Extent extent(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
// a < b; refused where Python cannot order the two.
bool less(const Value& a, const Value& b);
// `item in container`
bool contains(const Value& container, const Value& item);
// What a loop over `value` sees; a generator is used up.
Values elements(const Value& value);
// len(value)
int64_t length(const Value& value);
bool is_hashable(const Value& value);
// Ends with the reason of an undefined value.
void require_defined(const Value& value);

// str(value) and repr(value).
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
// The five characters that HTML gives a meaning, escaped.
std::string escaped_for_html(std::string_view text);

}  // namespace fulgur::jinja
