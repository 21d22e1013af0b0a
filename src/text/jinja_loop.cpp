#include "text/jinja_loop.h"

#include "text/jinja_arguments.h"

namespace fulgur::jinja {

Value function(std::string name, Function::Body body) {
  return Value(std::shared_ptr<Object>(std::make_shared<Function>(std::move(name), std::move(body))));
}

const Value* Loop::peek() const {
  const Values& all = elements_.sequence()->values;
  while (!ahead_ && next_ < all.size()) {
    const Value& candidate = all[next_++];
    if (!filter_ || filter_(candidate)) ahead_ = candidate;
  }
  return ahead_ ? &*ahead_ : nullptr;
}

bool Loop::advance() {
  const Value* following = peek();
  if (!following) return false;
  previous_ = std::exchange(current_, *following);
  ahead_.reset();
  ++index_;
  return true;
}

int64_t Loop::length() const {
  if (length_) return *length_;
  if (filter_) {  // what is left is judged now
    Values rest;
    while (const Value* passed = peek()) {
      rest.push_back(*passed);
      ahead_.reset();
    }
    elements_ = list(std::move(rest));
    next_ = 0, filter_ = {};
    length_ = index_ + 1 + int64_t(elements_.sequence()->values.size());
  } else {
    length_ = int64_t(elements_.sequence()->values.size());
  }
  return *length_;
}

std::optional<Value> Loop::attribute(const std::string& name) {
  if (name == "index") return integer(index_ + 1);
  if (name == "index0") return integer(index_);
  if (name == "first") return boolean(index_ == 0);
  if (name == "last") return boolean(peek() == nullptr);
  if (name == "length") return integer(length());
  if (name == "revindex") return integer(length() - index_);
  if (name == "revindex0") return integer(length() - index_ - 1);
  if (name == "depth") return integer(depth_ + 1);
  if (name == "depth0") return integer(depth_);
  if (name == "previtem") return previous_ ? *previous_ : undefined("there is no previous item");
  if (name == "nextitem") return peek() ? *peek() : undefined("there is no next item");
  const std::weak_ptr<Loop> weak = weak_from_this();
  const auto bound = [&](Value (*body)(Loop&, const Arguments&)) {
    return function(name, [weak, body](const Arguments& arguments) {
      const auto loop = weak.lock();
      if (!loop) unsupported("a method of a loop that has ended");
      return body(*loop, arguments);
    });
  };
  if (name == "cycle") return bound([](Loop& loop, const Arguments& given) { return loop.cycle(given); });
  if (name == "changed") return bound([](Loop& loop, const Arguments& given) { return loop.changed(given); });
  return std::nullopt;
}

std::string Loop::shown() const {
  return "<LoopContext " + std::to_string(index_ + 1) + "/" + std::to_string(length()) + ">";
}

Value Loop::cycle(const Arguments& arguments) const {
  const Values& all = arguments.positional;
  if (all.empty()) refuse("no items for cycling given");
  return all[size_t(index_) % all.size()];
}

Value Loop::changed(const Arguments& arguments) {
  Value given = tuple(arguments.positional);
  if (remembered_ && equal(*remembered_, given)) return boolean(false);
  remembered_ = std::move(given);
  return boolean(true);
}

Value Loop::call(const Arguments& arguments) {
  const Bound bound("loop", arguments, {"iterable"}, 1);
  if (!recursion_) refuse("the loop must have the 'recursive' marker to be called");
  return recursion_(bound.at(0));
}

Extent Loop::extent() const {
  const Extent inner = jinja::extent(elements_);
  return {inner.depth + 1, inner.count + 1};
}

}  // namespace fulgur::jinja
