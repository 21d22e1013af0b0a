// The expressions of a template: tokens to trees, with Jinja's precedence.
#pragma once
#include "text/jinja_token_stream.h"
#include "text/jinja_tree.h"

namespace fulgur::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  ExpressionPtr expression();           // with `a if b else c`
  ExpressionPtr without_conditional();  // where an `if` that follows belongs to the statement
  enum class Conditionals : bool { no, yes };
  // One expression, or several with commas between as a tuple.
  ExpressionPtr tuple(Conditionals conditionals);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr operand);  // .name [index] (arguments)
  ExpressionPtr filters(ExpressionPtr operand);  // from the first name on, `operand` may be nullptr

  // Ends an expression of a statement. A filter or test that Jinja does not know ends the parsing, but where Jinja
  // finds it only when it runs: in a conditional expression, and directly in the body of an `if`.
  void settle(bool inside_if);

 private:
  struct UnknownName {
    int line;
    std::string what;
  };
  ExpressionPtr logic_or();
  ExpressionPtr logic_and();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr filters_and_tests(ExpressionPtr operand);
  ExpressionPtr test(ExpressionPtr operand);
  ExpressionPtr subscript(ExpressionPtr operand);
  ExpressionPtr sequence_in_brackets();
  ExpressionPtr mapping_literal();
  CallArguments arguments();
  void argument(CallArguments& arguments);
  std::string dotted_name();
  ExpressionPtr make(int line, decltype(Expression::node) node);

  TokenStream& stream_;
  int depth_ = 0;
  size_t begin_ = 0;  // of the tokens since the last settle()
  std::vector<UnknownName> unknown_;
};

}  // namespace fulgur::jinja
