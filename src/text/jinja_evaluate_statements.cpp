// Statements of a template.
#include "text/jinja_depth.h"
#include "text/jinja_evaluator.h"
#include "text/jinja_loop.h"

namespace fulgur::jinja {
namespace {

// Sets a variable for as long as it lives.
template <class T>
class Replaced {
 public:
  Replaced(T& variable, T value) : variable_(variable), before_(std::exchange(variable, std::move(value))) {}
  ~Replaced() { variable_ = std::move(before_); }
  Replaced(const Replaced&) = delete;
  Replaced& operator=(const Replaced&) = delete;

 private:
  T& variable_;
  T before_;
};

ScopePtr inside(const ScopePtr& parent) { return std::make_shared<Scope>(Scope{{}, parent}); }

}  // namespace

std::string Evaluator::run(const Block& block) {
  std::string text;
  const Replaced printing(out_, &text);
  run_block(block);
  return text;
}

void Evaluator::print(const std::string& text) {
  if (out_->size() + text.size() > kLongestText)
    unsupported("a rendering of more than " + std::to_string(kLongestText) + " bytes");
  *out_ += text;
}

Evaluator::Signal Evaluator::run_block(const Block& block) {
  const Depth inside(depth_, kDeepest, "calls and statements");
  for (const auto& statement : block) {
    step(statement->line);
    const Signal signal = std::visit([&](const auto& node) { return on(node, statement->line); }, statement->node);
    if (signal != Signal::none) return signal;
  }
  return Signal::none;
}

Evaluator::Signal Evaluator::run_scoped(const Block& block) {
  const Replaced scope(scope_, inside(scope_));
  return run_block(block);
}

std::string Evaluator::captured(const Block& block) {
  std::string text;
  const Replaced printing(out_, &text);
  run_scoped(block);
  return text;
}

Evaluator::Signal Evaluator::on(const Data& node, int) { return print(node.text), Signal::none; }

Evaluator::Signal Evaluator::on(const Print& node, int line) {
  for (const ExpressionPtr& expression : node.values) {
    const Value shown = value(*expression);
    line_ = line;
    print(to_text(shown));
  }
  return Signal::none;
}

Evaluator::Signal Evaluator::on(const If& node, int) {
  for (const auto& [condition, block] : node.branches)
    if (truth(value(*condition))) return run_block(block);
  return run_block(node.otherwise);
}

Evaluator::Signal Evaluator::on(const For& node, int) { return iterate(node, value(*node.iterable), 0); }

bool Evaluator::passes(const For& node, const Value& element) {
  const Replaced scope(scope_, inside(scope_));
  assign(node.target, element);
  return truth(value(*node.filter));
}

Evaluator::Signal Evaluator::iterate(const For& node, const Value& iterable, int64_t depth) {
  const ScopePtr outer = scope_;
  Loop::Filter filter;
  if (node.filter)
    filter = [this, &node, outer](const Value& element) {
      const Replaced scope(scope_, outer);
      return passes(node, element);
    };
  Loop::Recursion recursion;
  if (node.recursive)
    recursion = [this, &node, outer, depth](const Value& inner) {
      std::string text;
      const Replaced scope(scope_, outer);
      const Replaced printing(out_, &text);
      iterate(node, inner, depth + 1);
      return jinja::text(std::move(text));
    };
  step(line_, extent(iterable).count / 16);
  const auto loop = std::make_shared<Loop>(iterable, std::move(filter), std::move(recursion), depth);
  bool any = false;  // body has come to its end
  while (loop->advance()) {
    step(line_);
    const Replaced scope(scope_, inside(outer));
    assign(node.target, loop->element());
    scope_->set("loop", Value(std::shared_ptr<Object>(loop)));
    const Signal signal = run_block(node.body);
    if (signal == Signal::end_loop) break;
    any |= signal == Signal::none;
  }
  loop->finish();
  if (!any) return run_scoped(node.otherwise);
  return Signal::none;
}

void Evaluator::assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) {
    const Value* found = scope_->find(target.name);
    const auto held = found && found->object() ? std::dynamic_pointer_cast<Namespace>(*found->object()) : nullptr;
    if (!held) refuse("cannot assign attribute on non-namespace object '" + target.name + "'");
    return held->set(target.attribute, value);
  }
  if (!target.name.empty()) return scope_->set(target.name, value);
  require_defined(value);
  const Values all = elements(value);
  if (all.size() != target.parts.size())
    refuse("expected " + std::to_string(target.parts.size()) + " values to unpack, not " + std::to_string(all.size()));
  for (size_t i = 0; i < all.size(); ++i) assign(target.parts[i], all[i]);
}

Evaluator::Signal Evaluator::on(const Set& node, int line) {
  const Value assigned = value(*node.value);
  line_ = line;
  assign(node.target, assigned);
  return Signal::none;
}

Value Evaluator::filtered(const Expression& filters, std::string bytes) {
  const Value begin = text(std::move(bytes));
  const Replaced piped(piped_, &begin);
  return value(filters);
}

Evaluator::Signal Evaluator::on(const SetBlock& node, int) {
  std::string bytes = captured(node.body);
  assign(node.target, node.filters ? filtered(*node.filters, std::move(bytes)) : text(std::move(bytes)));
  return Signal::none;
}

Evaluator::Signal Evaluator::on(const std::shared_ptr<const MacroDefinition>& node, int) {
  scope_->set(node->signature.name, macro(node));
  return Signal::none;
}

Evaluator::Signal Evaluator::on(const CallBlock& node, int line) {
  const auto& call = std::get<Call>(node.call->node);
  const Value function = value(*call.function);
  Arguments given = arguments(call.arguments);
  given.named.emplace_back("caller", macro(node.caller));
  print(to_text(called(function, given, line)));
  return Signal::none;
}

Evaluator::Signal Evaluator::on(const FilterBlock& node, int) {
  print(to_text(filtered(*node.filters, captured(node.body))));
  return Signal::none;
}

Evaluator::Signal Evaluator::on(const With& node, int) {
  const ScopePtr inner = inside(scope_);
  for (const auto& [target, expression] : node.variables) {
    const Value assigned = value(*expression);
    const Replaced scope(scope_, inner);
    assign(target, assigned);
  }
  const Replaced scope(scope_, inner);
  return run_block(node.body);
}

Evaluator::Signal Evaluator::on(const Scoped& node, int) { return run_scoped(node.body); }
Evaluator::Signal Evaluator::on(const Break&, int) { return Signal::end_loop; }
Evaluator::Signal Evaluator::on(const Continue&, int) { return Signal::next_iteration; }

}  // namespace fulgur::jinja
