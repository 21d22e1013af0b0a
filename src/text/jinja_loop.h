// The variable `loop` of a running for.
#pragma once
#include <functional>

#include "text/jinja_value.h"

namespace fulgur::jinja {

// A function of a template's language as a value.
struct Function : Object {
  using Body = std::function<Value(const Arguments&)>;
  Function(std::string name_, Body body_) : name(std::move(name_)), body(std::move(body_)) {}
  std::string type_name() const override { return "function"; }
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override { return body(arguments); }

  const std::string name;
  const Body body;
};
Value function(std::string name, Function::Body body);

// Goes through the elements that `filter` lets through; it looks at an element no sooner than somebody asks for it,
// since the loop's body may change what the filter says.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  using Filter = std::function<bool(const Value&)>;      // empty: all
  using Recursion = std::function<Value(const Value&)>;  // empty: the loop is not recursive
  Loop(const Value& iterable, Filter filter, Recursion recursion, int64_t depth)
      : elements_(list(elements(iterable))),
        filter_(std::move(filter)),
        recursion_(std::move(recursion)),
        depth_(depth) {}

  // Moves to the next element; false at the end.
  bool advance();
  const Value& element() const { return *current_; }
  // Ends what the loop could still call, since its surroundings are about to end.
  void finish() { filter_ = {}, recursion_ = {}; }

  std::string type_name() const override { return "LoopContext"; }
  std::string shown() const override;
  std::optional<Value> attribute(const std::string& name) override;
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override;
  Extent extent() const override;

 private:
  const Value* peek() const;
  int64_t length() const;
  Value cycle(const Arguments& arguments) const;
  Value changed(const Arguments& arguments);

  mutable Value elements_;
  mutable Filter filter_;
  Recursion recursion_;
  int64_t depth_, index_ = -1;  // from 0
  mutable size_t next_ = 0;     // of elements_: what has not been looked at
  mutable std::optional<Value> ahead_;
  mutable std::optional<int64_t> length_;
  std::optional<Value> current_, previous_, remembered_;
};

}  // namespace fulgur::jinja
