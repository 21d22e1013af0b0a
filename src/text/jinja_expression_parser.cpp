#include "text/jinja_expression_parser.h"

#include "text/jinja_depth.h"
#include "text/jinja_filters.h"
#include "text/jinja_tests.h"

namespace fulgur::jinja {
namespace {

constexpr int kDeepest = 150;        // brackets in brackets
constexpr size_t kLongest = 10'000;  // tokens of one expression: a chain such as a + b + c is a tree as deep as long

bool is_one_of(const std::string& text, std::initializer_list<std::string_view> all) {
  return std::find(all.begin(), all.end(), text) != all.end();
}

}  // namespace

ExpressionPtr ExpressionParser::make(int line, decltype(Expression::node) node) {
  if (stream_.position() - begin_ > kLongest)
    unsupported("an expression of more than " + std::to_string(kLongest) + " tokens");
  return std::make_unique<const Expression>(Expression{line, std::move(node)});
}

void ExpressionParser::settle(bool inside_if) {
  if (!inside_if && !unknown_.empty()) throw SyntaxProblem(unknown_.front().line, unknown_.front().what);
  unknown_.clear();
  begin_ = stream_.position();
}

ExpressionPtr ExpressionParser::expression() {
  const Depth inside(depth_, kDeepest, "expressions");
  const size_t unknown = unknown_.size();
  const int line = stream_.current().line;
  ExpressionPtr value = logic_or();
  while (stream_.skip_name("if")) {
    ExpressionPtr condition = logic_or();
    ExpressionPtr otherwise = stream_.skip_name("else") ? expression() : nullptr;
    value = make(line, Conditional{std::move(condition), std::move(value), std::move(otherwise)});
    unknown_.resize(unknown);
  }
  return value;
}

ExpressionPtr ExpressionParser::without_conditional() { return logic_or(); }

ExpressionPtr ExpressionParser::tuple(Conditionals conditionals) {
  const int line = stream_.current().line;
  SequenceLiteral several{SequenceKind::tuple, {}};
  const auto at_end = [&] {
    const Token& token = stream_.current();
    return token.kind == TokenKind::print_end || token.kind == TokenKind::block_end || token.is(")") ||
           token.is_name("recursive");
  };
  bool comma = false;
  while (!at_end()) {
    several.elements.push_back(conditionals == Conditionals::yes ? expression() : without_conditional());
    if (!stream_.skip(",")) break;
    comma = true;
  }
  if (several.elements.empty()) stream_.unexpected("an expression");
  if (!comma) return std::move(several.elements.front());
  return make(line, std::move(several));
}

ExpressionPtr ExpressionParser::logic_or() {
  const int line = stream_.current().line;
  ExpressionPtr left = logic_and();
  while (stream_.skip_name("or")) left = make(line, Logic{false, std::move(left), logic_and()});
  return left;
}

ExpressionPtr ExpressionParser::logic_and() {
  const int line = stream_.current().line;
  ExpressionPtr left = negation();
  while (stream_.skip_name("and")) left = make(line, Logic{true, std::move(left), negation()});
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  const int line = stream_.current().line;
  if (!stream_.skip_name("not")) return comparison();
  const Depth inside(depth_, kDeepest, "expressions");
  return make(line, Not{negation()});
}

ExpressionPtr ExpressionParser::comparison() {
  const int line = stream_.current().line;
  Comparison all{sum(), {}};
  while (true) {
    const Token& token = stream_.current();
    if (token.kind == TokenKind::sign && is_one_of(token.text, {"==", "!=", "<", "<=", ">", ">="})) {
      const std::string sign = stream_.next().text;
      all.rest.emplace_back(sign, sum());
    } else if (stream_.skip_name("in")) {
      all.rest.emplace_back("in", sum());
    } else if (token.is_name("not") && stream_.following().is_name("in")) {
      stream_.next(), stream_.next();
      all.rest.emplace_back("not in", sum());
    } else {
      return all.rest.empty() ? std::move(all.first) : make(line, std::move(all));
    }
  }
}

ExpressionPtr ExpressionParser::sum() {
  const int line = stream_.current().line;
  ExpressionPtr left = concatenation();
  while (stream_.current().is("+") || stream_.current().is("-")) {
    const std::string sign = stream_.next().text;
    left = make(line, Arithmetic{sign, std::move(left), concatenation()});
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const int line = stream_.current().line;
  Concatenation all;
  do all.parts.push_back(product());
  while (stream_.skip("~"));
  return all.parts.size() == 1 ? std::move(all.parts.front()) : make(line, std::move(all));
}

ExpressionPtr ExpressionParser::product() {
  const int line = stream_.current().line;
  ExpressionPtr left = power();
  while (stream_.current().kind == TokenKind::sign && is_one_of(stream_.current().text, {"*", "/", "//", "%"})) {
    const std::string sign = stream_.next().text;
    left = make(line, Arithmetic{sign, std::move(left), power()});
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  const int line = stream_.current().line;
  ExpressionPtr left = unary(true);
  while (stream_.skip("**")) left = make(line, Arithmetic{"**", std::move(left), unary(true)});
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Depth inside(depth_, kDeepest, "expressions");
  const int line = stream_.current().line;
  ExpressionPtr value;
  if (stream_.skip("-")) value = make(line, Unary{'-', unary(false)});
  else if (stream_.skip("+")) value = make(line, Unary{'+', unary(false)});
  else value = primary();
  value = postfix(std::move(value));
  return with_filters ? filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const Token token = stream_.current();
  if (token.is("[")) return sequence_in_brackets();
  if (token.is("{")) return mapping_literal();
  if (stream_.skip("(")) {
    ExpressionPtr inner = stream_.current().is(")") ? make(token.line, SequenceLiteral{SequenceKind::tuple, {}})
                                                    : tuple(Conditionals::yes);
    stream_.expect_sign(")");
    return inner;
  }
  const auto literal = [&](Value value) { return make(token.line, Literal{std::move(value)}); };
  if (token.kind == TokenKind::text) {
    std::string all;
    while (stream_.current().kind == TokenKind::text) all += stream_.next().text;
    return literal(text(std::move(all)));
  }
  const bool is_name = token.kind == TokenKind::name;
  if (!is_name && token.kind != TokenKind::integer && token.kind != TokenKind::number)
    stream_.unexpected("an expression");
  stream_.next();
  if (!is_name) return literal(token.value);
  if (is_one_of(token.text, {"true", "True"})) return literal(boolean(true));
  if (is_one_of(token.text, {"false", "False"})) return literal(boolean(false));
  if (is_one_of(token.text, {"none", "None"})) return literal(none());
  return make(token.line, NameUse{token.text});
}

ExpressionPtr ExpressionParser::sequence_in_brackets() {
  const int line = stream_.current().line;
  stream_.expect_sign("[");
  SequenceLiteral all{SequenceKind::list, {}};
  while (!stream_.skip("]")) {
    if (!all.elements.empty()) stream_.expect_sign(",");
    if (stream_.skip("]")) break;
    all.elements.push_back(expression());
  }
  return make(line, std::move(all));
}

ExpressionPtr ExpressionParser::mapping_literal() {
  const int line = stream_.current().line;
  stream_.expect_sign("{");
  MappingLiteral all;
  while (!stream_.skip("}")) {
    if (!all.entries.empty()) stream_.expect_sign(",");
    if (stream_.skip("}")) break;
    ExpressionPtr key = expression();
    stream_.expect_sign(":");
    all.entries.emplace_back(std::move(key), expression());
  }
  return make(line, std::move(all));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr operand) {
  while (true) {
    const int line = stream_.current().line;
    if (stream_.skip(".")) {
      if (stream_.current().kind == TokenKind::integer) {
        ExpressionPtr index = make(line, Literal{stream_.next().value});
        operand = make(line, Subscript{std::move(operand), std::move(index)});
      } else {
        operand = make(line, AttributeUse{std::move(operand), stream_.any_name()});
      }
    } else if (stream_.current().is("[")) {
      operand = subscript(std::move(operand));
    } else if (stream_.current().is("(")) {
      operand = make(line, Call{std::move(operand), arguments()});
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr operand) {
  const int line = stream_.current().line;
  stream_.expect_sign("[");
  Slice parts{std::move(operand), nullptr, nullptr, nullptr};
  ExpressionPtr* const bounds[] = {&parts.start, &parts.stop, &parts.step};
  size_t colons = 0;
  while (!stream_.current().is("]")) {
    if (stream_.skip(":")) {
      if (++colons > 2) stream_.unexpected("']'");
    } else {
      if (*bounds[colons]) stream_.unexpected("':' or ']'");
      *bounds[colons] = expression();
    }
    if (stream_.current().is(",")) stream_.wrong("not supported: several indices in one pair of brackets");
  }
  if (colons == 0 && !parts.start) stream_.unexpected("an index");
  stream_.expect_sign("]");
  if (colons == 0) return make(line, Subscript{std::move(parts.object), std::move(parts.start)});
  return make(line, std::move(parts));
}

CallArguments ExpressionParser::arguments() {
  CallArguments all;
  stream_.expect_sign("(");
  for (bool first = true; !stream_.skip(")"); first = false) {
    if (!first) {
      stream_.expect_sign(",");
      if (stream_.skip(")")) break;
    }
    argument(all);
  }
  return all;
}

void ExpressionParser::argument(CallArguments& all) {
  const Token token = stream_.current();
  if (all.more_named) stream_.wrong("an argument after **");
  if (stream_.skip("**")) {
    all.more_named = expression();
  } else if (stream_.skip("*")) {
    if (all.more_positional) stream_.wrong("two arguments with *");
    all.more_positional = expression();
  } else if (token.kind == TokenKind::name && stream_.following().is("=")) {
    stream_.next(), stream_.next();
    for (const auto& entry : all.named)
      if (entry.first == token.text) stream_.wrong("the argument '" + token.text + "' is there twice");
    all.named.emplace_back(token.text, expression());
  } else {
    if (!all.named.empty() || all.more_positional) stream_.wrong("an argument without a name after one with a name");
    all.positional.push_back(expression());
  }
}

std::string ExpressionParser::dotted_name() {
  std::string name = stream_.any_name();
  while (stream_.skip(".")) name += "." + stream_.any_name();
  return name;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr operand) {
  do {
    const int line = stream_.current().line;
    const std::string name = dotted_name();
    if (!is_filter_name(name)) unknown_.push_back({line, "no filter named '" + name + "'"});
    CallArguments given = stream_.current().is("(") ? arguments() : CallArguments{};
    operand = make(line, FilterUse{std::move(operand), name, std::move(given)});
  } while (stream_.skip("|"));
  return operand;
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr operand) {
  while (true) {
    const int line = stream_.current().line;
    if (stream_.skip("|")) operand = filters(std::move(operand));
    else if (stream_.skip_name("is")) operand = test(std::move(operand));
    else if (stream_.current().is("(")) operand = make(line, Call{std::move(operand), arguments()});
    else return operand;
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr operand) {
  const Depth inside(depth_, kDeepest, "expressions");
  const int line = stream_.current().line;
  const bool negated = stream_.skip_name("not");
  const std::string name = dotted_name();
  if (!is_test_name(name)) unknown_.push_back({line, "no test named '" + name + "'"});
  CallArguments given;
  const Token& token = stream_.current();
  if (token.is("(")) {
    given = arguments();
  } else if (token.kind == TokenKind::text || token.kind == TokenKind::integer || token.kind == TokenKind::number ||
             token.is("[") || token.is("{") ||
             (token.kind == TokenKind::name && !is_one_of(token.text, {"else", "or", "and"}))) {
    if (token.is_name("is")) stream_.wrong("tests cannot be chained with 'is'");
    given.positional.push_back(postfix(primary()));
  }
  ExpressionPtr result = make(line, TestUse{std::move(operand), name, std::move(given)});
  return negated ? make(line, Not{std::move(result)}) : std::move(result);
}

}  // namespace fulgur::jinja
