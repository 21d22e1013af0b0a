// A template as a tree. `line` counts from 1 and is where a construct begins.
#pragma once
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "text/jinja_value.h"

namespace fulgur::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;
struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr more_positional, more_named;  // *list and **dict; absent: nullptr
};

struct Literal {
  Value value;
};
struct NameUse {
  std::string name;
};
struct SequenceLiteral {
  SequenceKind kind;  // list or tuple
  std::vector<ExpressionPtr> elements;
};
struct MappingLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct AttributeUse {  // object.name
  ExpressionPtr object;
  std::string name;
};
struct Subscript {  // object[index]
  ExpressionPtr object, index;
};
struct Slice {  // object[start:stop:step]; absent: nullptr
  ExpressionPtr object, start, stop, step;
};
struct Call {
  ExpressionPtr function;
  CallArguments arguments;
};
struct FilterUse {  // operand | name(arguments); a filter block's innermost operand is nullptr
  ExpressionPtr operand;
  std::string name;
  CallArguments arguments;
};
struct TestUse {  // operand is name(arguments)
  ExpressionPtr operand;
  std::string name;
  CallArguments arguments;
};
struct Unary {
  char sign;  // + -
  ExpressionPtr operand;
};
struct Not {
  ExpressionPtr operand;
};
struct Arithmetic {
  std::string sign;  // + - * / // % **
  ExpressionPtr left, right;
};
struct Logic {  // gives one of the two, as in Python
  bool is_and;
  ExpressionPtr left, right;
};
struct Concatenation {  // a ~ b ~ c
  std::vector<ExpressionPtr> parts;
};
struct Comparison {  // first < second <= third ...
  ExpressionPtr first;
  std::vector<std::pair<std::string, ExpressionPtr>> rest;
};
struct Conditional {  // then if condition else otherwise; otherwise may be nullptr
  ExpressionPtr condition, then, otherwise;
};

struct Expression {
  int line;
  std::variant<Literal, NameUse, SequenceLiteral, MappingLiteral, AttributeUse, Subscript, Slice, Call, FilterUse,
               TestUse, Unary, Not, Arithmetic, Logic, Concatenation, Comparison, Conditional>
      node;
};

// What `set` and `for` assign to: a name, an attribute of a namespace, or several in a tuple.
struct Target {
  std::string name, attribute;  // of a namespace where `attribute` is not empty
  std::vector<Target> parts;    // of a tuple: then both are empty
};

struct Data {
  std::string text;
};
struct Print {
  std::vector<ExpressionPtr> values;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Block>> branches;  // if, elif ...
  Block otherwise;
};
struct For {
  Target target;
  ExpressionPtr iterable, filter;  // filter may be nullptr
  bool recursive = false;
  Block body, otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {  // the printed body, through the filters if there are any
  Target target;
  ExpressionPtr filters;
  Block body;
};
struct Signature {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // with the default or nullptr
  bool takes_caller = false, takes_more_positional = false, takes_more_named = false;
};
struct MacroDefinition {
  Signature signature;
  Block body;
};
struct CallBlock {
  ExpressionPtr call;  // its node is a Call
  std::shared_ptr<const MacroDefinition> caller;
};
struct FilterBlock {
  ExpressionPtr filters;
  Block body;
};
struct With {
  std::vector<std::pair<Target, ExpressionPtr>> variables;
  Block body;
};
struct Scoped {  // the body of {% generation %}
  Block body;
};
struct Break {};
struct Continue {};

struct Statement {
  int line;
  std::variant<Data, Print, If, For, Set, SetBlock, std::shared_ptr<const MacroDefinition>, CallBlock, FilterBlock,
               With, Scoped, Break, Continue>
      node;
};

}  // namespace fulgur::jinja
