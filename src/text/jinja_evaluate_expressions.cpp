// Expressions of a template.
#include "text/jinja_access.h"
#include "text/jinja_arithmetic.h"
#include "text/jinja_depth.h"
#include "text/jinja_evaluator.h"
#include "text/jinja_filters.h"
#include "text/jinja_tests.h"

namespace fulgur::jinja {
namespace {

constexpr int64_t kMostSteps = 50'000'000;

}  // namespace

void Evaluator::step(int line, int64_t count) {
  line_ = line;
  if ((steps_ += count) > kMostSteps) unsupported("a rendering of more than " + std::to_string(kMostSteps) + " steps");
}

Value Evaluator::value(const Expression& expression) {
  const Depth inside(depth_, kDeepest, "calls and expressions");
  step(expression.line);
  return std::visit([&](const auto& node) { return on(node, expression.line); }, expression.node);
}

Value Evaluator::charged(Value made, int line) {
  constexpr int64_t kBytes = 256, kValues = 16;  // that take about as long as a step
  step(line, made.is_text() ? int64_t(made.text().size()) / kBytes : extent(made).count / kValues);
  return made;
}

Value Evaluator::on(const Literal& node, int) { return node.value; }

Value Evaluator::on(const NameUse& node, int) {
  const Value* found = scope_->find(node.name);
  return found ? *found : undefined("'" + node.name + "' is undefined");
}

Value Evaluator::on(const SequenceLiteral& node, int) {
  Values all;
  for (const ExpressionPtr& element : node.elements) all.push_back(value(*element));
  return sequence(node.kind, std::move(all));
}

Value Evaluator::on(const MappingLiteral& node, int) {
  Entries entries;
  for (const auto& [key, held] : node.entries) {
    Value name = value(*key);
    entries.emplace_back(std::move(name), value(*held));
  }
  return mapping(std::move(entries));
}

Value Evaluator::on(const AttributeUse& node, int line) {
  const Value object = value(*node.object);
  line_ = line;
  return attribute(object, node.name);
}

Value Evaluator::on(const Subscript& node, int line) {
  const Value object = value(*node.object), index = value(*node.index);
  line_ = line;
  return item(object, index);
}

Value Evaluator::on(const Slice& node, int line) {
  const auto bound = [&](const ExpressionPtr& given) { return given ? value(*given) : none(); };
  const Value object = value(*node.object), start = bound(node.start), stop = bound(node.stop), step = bound(node.step);
  line_ = line;
  return charged(slice(object, start, stop, step), line);
}

Arguments Evaluator::arguments(const CallArguments& given) {
  Arguments all;
  for (const ExpressionPtr& argument : given.positional) all.positional.push_back(value(*argument));
  if (given.more_positional)
    for (Value& element : elements(value(*given.more_positional))) all.positional.push_back(std::move(element));
  for (const auto& [name, argument] : given.named) all.named.emplace_back(name, value(*argument));
  if (!given.more_named) return all;
  const Value more = value(*given.more_named);
  if (!more.mapping()) refuse("the argument after ** must be a mapping, not " + type_name(more));
  for (const auto& [name, held] : more.mapping()->entries) {
    if (!name.is_text()) refuse("keywords must be strings, not " + type_name(name));
    for (const auto& entry : all.named)
      if (entry.first == name.text()) refuse("got multiple values for keyword argument '" + entry.first + "'");
    all.named.emplace_back(name.text(), held);
  }
  return all;
}

Value Evaluator::called(const Value& function, const Arguments& given, int line) {
  line_ = line;
  require_defined(function);
  if (!function.object()) refuse("'" + type_name(function) + "' object is not callable");
  const std::shared_ptr<Object> held = *function.object();
  return charged(held->call(given), line);
}

Value Evaluator::on(const Call& node, int line) {
  const Value function = value(*node.function);
  return called(function, arguments(node.arguments), line);
}

Value Evaluator::on(const FilterUse& node, int line) {
  const Value operand = node.operand ? value(*node.operand) : *piped_;
  const Arguments given = arguments(node.arguments);
  line_ = line;
  return charged(apply_filter(node.name, operand, given), line);
}

Value Evaluator::on(const TestUse& node, int line) {
  const Value operand = value(*node.operand);
  const Arguments given = arguments(node.arguments);
  line_ = line;
  return boolean(test(node.name, operand, given));
}

Value Evaluator::on(const Unary& node, int line) {
  const Value operand = value(*node.operand);
  line_ = line;
  return node.sign == '-' ? negated(operand) : positive(operand);
}

Value Evaluator::on(const Not& node, int) { return boolean(!truth(value(*node.operand))); }

Value Evaluator::on(const Arithmetic& node, int line) {
  const Value left = value(*node.left), right = value(*node.right);
  line_ = line;
  return charged(arithmetic(node.sign, left, right), line);
}

Value Evaluator::on(const Logic& node, int) {
  Value left = value(*node.left);
  return truth(left) == node.is_and ? value(*node.right) : left;
}

Value Evaluator::on(const Concatenation& node, int line) {
  std::string all;
  for (const ExpressionPtr& part : node.parts) {
    all += to_text(value(*part));
    if (all.size() > kLongestText) break;  // refused by text()
  }
  line_ = line;
  return charged(text(std::move(all)), line);
}

Value Evaluator::on(const Comparison& node, int line) {
  Value left = value(*node.first);
  for (const auto& [sign, operand] : node.rest) {
    Value right = value(*operand);
    line_ = line;
    if (!compare(sign, left, right)) return boolean(false);
    left = std::move(right);
  }
  return boolean(true);
}

Value Evaluator::on(const Conditional& node, int line) {
  if (truth(value(*node.condition))) return value(*node.then);
  if (node.otherwise) return value(*node.otherwise);
  return undefined("the if-expression on line " + std::to_string(line) + " was false and has no else");
}

}  // namespace fulgur::jinja
