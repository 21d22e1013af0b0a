// Macros, and the functions that every template can call.
#include <algorithm>
#include <ctime>

#include "text/jinja_arguments.h"
#include "text/jinja_evaluator.h"
#include "text/jinja_loop.h"

namespace fulgur::jinja {
namespace {

Value range_function(const Arguments& arguments) {
  const Bound bound("range", arguments, {"start", "stop", "step"}, 1);
  if (!arguments.named.empty()) refuse("range() takes no keyword arguments");
  for (size_t i = 0; i < arguments.positional.size(); ++i)
    if (!bound.at(i).is_integer()) refuse("range() expects integers, not " + type_name(bound.at(i)));
  if (!bound.has(1)) return range(0, bound.at(0).integer(), 1);
  return range(bound.at(0).integer(), bound.at(1).integer(), bound.integer_or(2, 1));
}

// The entries of dict(mapping or pairs, name=value ...), which is also what namespace() takes.
Entries entries_of(const char* name, const Arguments& arguments) {
  if (arguments.positional.size() > 1) refuse(std::string(name) + "() takes at most one argument without a name");
  Entries entries;
  if (!arguments.positional.empty()) {
    const Value& given = arguments.positional[0];
    require_defined(given);
    if (given.mapping()) entries = given.mapping()->entries;
    else
      for (const Value& pair : elements(given)) {
        const Values both = elements(pair);
        if (both.size() != 2)
          refuse(std::string(name) + "() expects pairs, not " + std::to_string(both.size()) + " values");
        entries.emplace_back(both[0], both[1]);
      }
  }
  for (const auto& [key, value] : arguments.named) entries.emplace_back(text(key), value);
  return entries;
}

Value raise(const Arguments& arguments) {
  const Bound bound("raise_exception", arguments, {"message"}, 1);
  refuse("the template raises: " + to_text(bound.at(0)));
}

Value strftime(const Arguments& arguments, int64_t now) {
  const Bound bound("strftime_now", arguments, {"format"}, 1);
  const std::string& format = bound.text(0);
  const std::time_t seconds = now;
  std::tm local{};
  localtime_r(&seconds, &local);
  std::string shown(format.size() * 32 + 64, '\0');
  shown.resize(std::strftime(shown.data(), shown.size(), format.c_str(), &local));
  return text(std::move(shown));
}

}  // namespace

Evaluator::Evaluator(Variables variables, int64_t now) : scope_(std::make_shared<Scope>()) {
  add_globals(now);
  for (auto& [name, value] : variables) scope_->set(name, std::move(value));
  scope_ = std::make_shared<Scope>(Scope{{}, scope_});
}

Evaluator::~Evaluator() {
  for (const ScopePtr& scope : captured_scopes_) scope->variables.clear();
  for (const auto& held : namespaces_) held->variables.clear();
}

void Evaluator::add_globals(int64_t now) {
  const auto add = [&](const char* name, Function::Body body) { scope_->set(name, function(name, std::move(body))); };
  add("range", range_function);
  add("dict", [](const Arguments& given) { return mapping(entries_of("dict", given)); });
  add("namespace", [this](const Arguments& given) { return make_namespace(given); });
  add("raise_exception", raise);
  add("strftime_now", [now](const Arguments& given) { return strftime(given, now); });
  for (const char* name : {"cycler", "joiner", "lipsum"})
    add(name, [name](const Arguments&) -> Value { unsupported("the function '" + std::string(name) + "'"); });
}

Value Evaluator::make_namespace(const Arguments& given) {
  auto made = std::make_shared<Namespace>();
  for (const auto& [key, value] : entries_of("namespace", given)) {
    if (!key.is_text()) refuse("namespace() expects texts as names, not " + type_name(key));
    made->set(key.text(), value);
  }
  namespaces_.push_back(made);
  return Value(std::shared_ptr<Object>(made));
}

Value Evaluator::macro(std::shared_ptr<const MacroDefinition> definition) {
  if (captured_scopes_.empty() || captured_scopes_.back() != scope_) captured_scopes_.push_back(scope_);
  return Value(std::shared_ptr<Object>(std::make_shared<Macro>(*this, scope_, std::move(definition))));
}

std::string Macro::shown() const { return "<Macro '" + definition->signature.name + "'>"; }

std::optional<Value> Macro::attribute(const std::string& name) {
  const Signature& signature = definition->signature;
  if (name == "name") return text(signature.name);
  if (name == "caller") return boolean(signature.takes_caller);
  if (name == "catch_varargs") return boolean(signature.takes_more_positional);
  if (name == "catch_kwargs") return boolean(signature.takes_more_named);
  if (name != "arguments") return std::nullopt;
  Values names;
  for (const auto& parameter : signature.parameters) names.push_back(text(parameter.first));
  return tuple(std::move(names));
}

// The scope of the body with its arguments; those that are left to a default are absent.
ScopePtr Macro::bound(const Arguments& arguments) const {
  const Signature& signature = definition->signature;
  const auto inner = std::make_shared<Scope>(Scope{{}, scope});
  Values more;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < signature.parameters.size()) inner->set(signature.parameters[i].first, arguments.positional[i]);
    else more.push_back(arguments.positional[i]);
  }
  Entries more_named;
  std::optional<Value> caller;
  for (const auto& [name, value] : arguments.named) {
    const auto known = std::find_if(signature.parameters.begin(), signature.parameters.end(),
                                    [&name = name](const auto& parameter) { return parameter.first == name; });
    if (known != signature.parameters.end() && !inner->variables.count(name)) inner->set(name, value);
    else if (name == "caller" && signature.takes_caller) caller = value;
    else if (signature.takes_more_named) more_named.emplace_back(text(name), value);
    else refuse("macro '" + signature.name + "' takes no keyword argument '" + name + "'");
  }
  if (!more.empty() && !signature.takes_more_positional)
    refuse("macro '" + signature.name + "' takes not more than " + std::to_string(signature.parameters.size()) +
           " arguments");
  if (signature.takes_more_positional) inner->set("varargs", tuple(std::move(more)));
  if (signature.takes_more_named) inner->set("kwargs", mapping(std::move(more_named)));
  if (signature.takes_caller && !inner->variables.count("caller"))
    inner->set("caller", caller ? *caller : undefined("No caller defined"));
  return inner;
}

Value Macro::call(const Arguments& arguments) {
  const ScopePtr inner = bound(arguments);
  const ScopePtr outer = std::exchange(evaluator.scope_, inner);
  std::string text;
  std::string* const printed = std::exchange(evaluator.out_, &text);
  for (const auto& [name, otherwise] : definition->signature.parameters) {
    if (inner->variables.count(name)) continue;
    inner->set(name, otherwise ? evaluator.value(*otherwise) : undefined("parameter '" + name + "' was not provided"));
  }
  evaluator.run_block(definition->body);
  evaluator.out_ = printed;
  evaluator.scope_ = outer;
  return jinja::text(std::move(text));
}

}  // namespace fulgur::jinja
