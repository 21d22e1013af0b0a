#include "text/jinja_parser.h"

#include <algorithm>

#include "text/jinja_depth.h"
#include "text/jinja_expression_parser.h"

namespace fulgur::jinja {
namespace {

constexpr int kDeepest = 100;  // statements in statements
using Conditionals = ExpressionParser::Conditionals;
using Ends = std::initializer_list<const char*>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : stream_(std::move(tokens)), expressions_(stream_) {}

  Block run() {
    try {
      return statements({});
    } catch (const SyntaxProblem&) {
      throw;
    } catch (const Problem& problem) {
      throw SyntaxProblem(stream_.current().line, problem.what(), problem.kind());
    }
  }

 private:
  // Up to a block that begins with one of `ends`, whose name is then the current token.
  Block statements(Ends ends) {
    const Depth inside(depth_, kDeepest, "statements");
    Block block;
    while (stream_.current().kind != TokenKind::end) {
      const int line = stream_.current().line;
      const auto add = [&](decltype(Statement::node) node) {
        block.push_back(std::make_unique<const Statement>(Statement{line, std::move(node)}));
      };
      if (stream_.current().kind == TokenKind::data) {
        add(Data{stream_.next().text});
      } else if (stream_.current().kind == TokenKind::print_begin) {
        stream_.next();
        Print one;
        one.values.push_back(tuple(Conditionals::yes));
        add(std::move(one));
        stream_.expect_kind(TokenKind::print_end, "'}}'");
      } else {
        stream_.expect_kind(TokenKind::block_begin, "'{%'");
        const Token& name = stream_.current();
        if (std::any_of(ends.begin(), ends.end(), [&](const char* end) { return name.is_name(end); })) return block;
        add(statement());
        end_tag();
      }
    }
    if (ends.size() != 0) stream_.wrong("the template ends before '" + std::string(*std::prev(ends.end())) + "'");
    return block;
  }

  // The body of a statement: after its tag up to `{% end`; Jinja looks for unknown filters in it at once.
  Block body(Ends ends, bool inside_if = false) {
    end_tag();
    const bool outer = std::exchange(inside_if_, inside_if);
    Block block = statements(ends);
    inside_if_ = outer;
    return block;
  }

  void end_tag() { stream_.expect_kind(TokenKind::block_end, "'%}'"); }

  ExpressionPtr settled(ExpressionPtr expression) {
    expressions_.settle(inside_if_);
    return expression;
  }
  ExpressionPtr tuple(Conditionals conditionals) { return settled(expressions_.tuple(conditionals)); }

  decltype(Statement::node) statement() {
    const std::string name = stream_.any_name();
    if (name == "if") return if_statement();
    if (name == "for") return for_statement();
    if (name == "set") return set_statement();
    if (name == "macro") return macro();
    if (name == "call") return call_block();
    if (name == "filter") return filter_block();
    if (name == "with") return with_block();
    if (name == "print") return print();
    if (name == "break") return require_loop(name), Break{};
    if (name == "continue") return require_loop(name), Continue{};
    if (name == "generation") {
      Scoped scoped{outside_loops({"endgeneration"})};
      stream_.next();
      return scoped;
    }
    for (const char* known : {"extends", "block", "include", "import", "from", "autoescape"})
      if (name == known) unsupported("the statement '" + name + "'");
    stream_.wrong("unknown statement '" + name + "'");
  }

  // A body that is called like a macro: a `break` in it has no loop.
  Block outside_loops(Ends ends) {
    const int loops = std::exchange(loops_, 0);
    Block block = body(ends);
    loops_ = loops;
    return block;
  }

  void require_loop(const std::string& name) const {
    if (loops_ == 0) stream_.wrong("'" + name + "' outside of a loop");
  }

  Print print() {  // {% print a, b %}
    Print all;
    do all.values.push_back(settled(expressions_.expression()));
    while (stream_.skip(","));
    return all;
  }

  If if_statement() {
    If all;
    const bool outer = std::exchange(inside_if_, true);
    do {
      ExpressionPtr condition = tuple(Conditionals::no);
      all.branches.emplace_back(std::move(condition), body({"elif", "else", "endif"}, true));
    } while (stream_.skip_name("elif"));
    if (stream_.skip_name("else")) all.otherwise = body({"endif"}, true);
    stream_.expect_name("endif");
    inside_if_ = outer;
    return all;
  }

  For for_statement() {
    For all;
    all.target = target();
    stream_.expect_name("in");
    all.iterable = tuple(Conditionals::no);
    if (stream_.skip_name("if")) all.filter = settled(expressions_.expression());
    all.recursive = stream_.skip_name("recursive");
    ++loops_;
    all.body = body({"else", "endfor"});
    --loops_;
    if (stream_.skip_name("else")) all.otherwise = body({"endfor"});
    stream_.expect_name("endfor");
    return all;
  }

  // Names with commas between, in parentheses or not.
  Target target() {
    const Depth inside(depth_, kDeepest, "targets");
    Target all;
    bool comma = false;
    do {
      if (comma && (stream_.current().is_name("in") || stream_.current().is("=") || stream_.current().is(")"))) break;
      all.parts.push_back(one_target());
    } while (stream_.skip(",") && (comma = true));
    return comma ? all : all.parts.front();
  }

  Target one_target() {
    Target one;
    if (stream_.skip("(")) {
      one = target();
      stream_.expect_sign(")");
      return one;
    }
    one.name = stream_.any_name();
    for (const char* reserved : {"true", "false", "none", "True", "False", "None", "loop"})
      if (one.name == reserved && !stream_.current().is(".")) stream_.wrong("'" + one.name + "' cannot be assigned to");
    if (stream_.skip(".")) one.attribute = stream_.any_name();
    return one;
  }

  decltype(Statement::node) set_statement() {
    Target assigned = target();
    if (stream_.skip("=")) return Set{std::move(assigned), tuple(Conditionals::yes)};
    SetBlock all{std::move(assigned), nullptr, {}};
    if (stream_.skip("|")) all.filters = settled(expressions_.filters(nullptr));
    all.body = body({"endset"});
    stream_.next();
    return all;
  }

  Signature signature(std::string name) {
    Signature all{std::move(name), {}};
    stream_.expect_sign("(");
    while (!stream_.skip(")")) {
      if (!all.parameters.empty()) stream_.expect_sign(",");
      const std::string parameter = stream_.any_name();
      ExpressionPtr otherwise = stream_.skip("=") ? settled(expressions_.expression()) : nullptr;
      if (!otherwise && !all.parameters.empty() && all.parameters.back().second)
        stream_.wrong("the parameter '" + parameter + "' without a default after one with a default");
      all.parameters.emplace_back(parameter, std::move(otherwise));
    }
    return all;
  }

  std::shared_ptr<const MacroDefinition> macro() { return definition(signature(stream_.any_name()), {"endmacro"}); }

  // Which of `caller`, `varargs` and `kwargs` the body uses decides what the macro takes.
  std::shared_ptr<const MacroDefinition> definition(Signature taken, Ends ends) {
    const size_t begin = stream_.position();
    MacroDefinition all{std::move(taken), outside_loops(ends)};
    all.signature.takes_caller = stream_.uses_since(begin, "caller");
    all.signature.takes_more_positional = stream_.uses_since(begin, "varargs");
    all.signature.takes_more_named = stream_.uses_since(begin, "kwargs");
    stream_.next();
    return std::make_shared<const MacroDefinition>(std::move(all));
  }

  CallBlock call_block() {
    Signature taken = stream_.current().is("(") ? signature("caller") : Signature{"caller", {}};
    ExpressionPtr call = settled(expressions_.expression());
    if (!std::holds_alternative<Call>(call->node)) stream_.wrong("expected a call after 'call'");
    return {std::move(call), definition(std::move(taken), {"endcall"})};
  }

  FilterBlock filter_block() {
    ExpressionPtr filters = settled(expressions_.filters(nullptr));
    FilterBlock all{std::move(filters), body({"endfilter"})};
    stream_.next();
    return all;
  }

  With with_block() {
    With all;
    while (stream_.current().kind != TokenKind::block_end) {
      if (!all.variables.empty()) stream_.expect_sign(",");
      Target assigned = one_target();
      stream_.expect_sign("=");
      all.variables.emplace_back(std::move(assigned), settled(expressions_.expression()));
    }
    all.body = body({"endwith"});
    stream_.next();
    return all;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int depth_ = 0, loops_ = 0;
  bool inside_if_ = false;
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokens_of(source)).run(); }

}  // namespace fulgur::jinja
