// Runs a template's tree: expressions give values, statements print and assign.
#pragma once
#include "text/jinja_scope.h"
#include "text/jinja_tree.h"

namespace fulgur::jinja {

class Loop;

class Evaluator {
 public:
  using Variables = std::vector<std::pair<std::string, Value>>;
  // `now`: seconds since 1970 for strftime_now, shown in local time.
  Evaluator(Variables variables, int64_t now);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  // What the template prints. Throws Problem.
  std::string run(const Block& block);
  // The line of the template where the last step was taken.
  int line() const { return line_; }

 private:
  friend struct Macro;
  static constexpr int kDeepest = 1'200;  // expressions and statements in each other, calls included
  enum class Signal : uint8_t { none, next_iteration, end_loop };

  // Expressions.
  Value value(const Expression& expression);
  Value on(const Literal& node, int line);
  Value on(const NameUse& node, int line);
  Value on(const SequenceLiteral& node, int line);
  Value on(const MappingLiteral& node, int line);
  Value on(const AttributeUse& node, int line);
  Value on(const Subscript& node, int line);
  Value on(const Slice& node, int line);
  Value on(const Call& node, int line);
  Value on(const FilterUse& node, int line);
  Value on(const TestUse& node, int line);
  Value on(const Unary& node, int line);
  Value on(const Not& node, int line);
  Value on(const Arithmetic& node, int line);
  Value on(const Logic& node, int line);
  Value on(const Concatenation& node, int line);
  Value on(const Comparison& node, int line);
  Value on(const Conditional& node, int line);
  Arguments arguments(const CallArguments& given);
  Value called(const Value& function, const Arguments& given, int line);
  void step(int line, int64_t count = 1);
  Value charged(Value made, int line);  // counts steps for the size of what an operation has made

  // Statements.
  Signal run_block(const Block& block);
  Signal run_scoped(const Block& block);  // what it assigns is gone at its end
  Signal on(const Data& node, int line);
  Signal on(const Print& node, int line);
  Signal on(const If& node, int line);
  Signal on(const For& node, int line);
  Signal on(const Set& node, int line);
  Signal on(const SetBlock& node, int line);
  Signal on(const std::shared_ptr<const MacroDefinition>& node, int line);
  Signal on(const CallBlock& node, int line);
  Signal on(const FilterBlock& node, int line);
  Signal on(const With& node, int line);
  Signal on(const Scoped& node, int line);
  Signal on(const Break& node, int line);
  Signal on(const Continue& node, int line);
  Signal iterate(const For& node, const Value& iterable, int64_t depth);
  bool passes(const For& node, const Value& element);
  void assign(const Target& target, const Value& value);
  std::string captured(const Block& block);  // what it prints, scoped
  Value filtered(const Expression& filters, std::string text);
  void print(const std::string& text);

  Value macro(std::shared_ptr<const MacroDefinition> definition);
  Value make_namespace(const Arguments& given);
  void add_globals(int64_t now);

  ScopePtr scope_;
  std::string* out_ = nullptr;    // where to print
  const Value* piped_ = nullptr;  // what the filters of a block begin with
  int line_ = 1, depth_ = 0;
  int64_t steps_ = 0;
  // What may hold itself, emptied at the end.
  std::vector<ScopePtr> captured_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// A macro with the variables that it was defined among.
struct Macro : Object {
  Macro(Evaluator& evaluator_, ScopePtr scope_, std::shared_ptr<const MacroDefinition> definition_)
      : evaluator(evaluator_), scope(std::move(scope_)), definition(std::move(definition_)) {}
  std::string type_name() const override { return "Macro"; }
  std::string shown() const override;
  std::optional<Value> attribute(const std::string& name) override;
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override;
  ScopePtr bound(const Arguments& arguments) const;

  Evaluator& evaluator;
  const ScopePtr scope;
  const std::shared_ptr<const MacroDefinition> definition;
};

}  // namespace fulgur::jinja
