#include "text/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "files/digest.h"
#include "files/json_file.h"
#include "text/jinja_evaluator.h"
#include "text/jinja_json.h"
#include "text/jinja_lexer.h"
#include "text/jinja_parser.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kTokenKeys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};

// What a template says may hold line breaks and be long.
std::string one_line(std::string what) {
  constexpr size_t kLongest = 400;
  if (what.size() > kLongest) what = to_valid_utf8(what.substr(0, kLongest)) + "...";
  for (char& c : what)
    if (uint8_t(c) < ' ') c = ' ';
  return what;
}

jinja::Block parsed(std::string_view text, const std::string& origin) {
  if (to_valid_utf8(text) != text) fail(ErrorKind::corrupt_file, origin + ": the template is no valid UTF-8");
  try {
    return jinja::parse_template(text);
  } catch (const jinja::SyntaxProblem& problem) {
    fail(problem.kind(), origin + ": line " + std::to_string(problem.line()) + ": " + one_line(problem.what()));
  }
}

// The text of a token as tokenizer_config.json writes it: the text itself or an object with `content`.
Json token_text(const Json& token, const std::string& origin) {
  const Json& text = token.is_object() && token.contains("content") ? token["content"] : token;
  if (!text.is_string()) fail(ErrorKind::corrupt_file, origin + ": expected a text or an object with `content`");
  return text;
}

Json special_tokens(const Json& config, const std::string& origin) {
  Json tokens = Json::object();
  for (const char* key : kTokenKeys)
    if (config.contains(key) && !config[key].is_null()) tokens[key] = token_text(config[key], origin + ": " + key);
  const char* const more = "additional_special_tokens";
  if (!config.contains(more) || config[more].is_null()) return tokens;
  if (!config[more].is_array()) fail(ErrorKind::corrupt_file, origin + ": " + more + ": expected a list");
  for (const Json& token : config[more]) tokens[more].push_back(token_text(token, origin + ": " + more));
  return tokens;
}

void require_objects(const Json& list, const char* what) {
  const auto is_object = [](const Json& element) { return element.is_object(); };
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), is_object))
    fail(ErrorKind::invalid_input, std::string(what) + ": expected a list of objects");
}

}  // namespace

struct ChatTemplate::Named {
  std::string name, origin;
  jinja::Block block;
};

ChatTemplate::ChatTemplate() : special_tokens_(std::make_unique<Json>(Json::object())) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

void ChatTemplate::add(const std::string& name, const std::string& origin, std::string_view text) {
  for (const Named& known : named_)
    if (known.name == name) fail(ErrorKind::corrupt_file, origin + ": a second template of that name");
  named_.push_back({name, origin, parsed(text, origin)});
  texts_.append(name).append(1, '\0').append(text).append(1, '\0');
}

void ChatTemplate::add_from_config(const fs::path& file, bool with_templates) {
  const Json config = parse_object(read_text(file), file.string());
  *special_tokens_ = special_tokens(config, file.string());
  if (!with_templates || !config.contains("chat_template") || config["chat_template"].is_null()) return;
  const Json& given = config["chat_template"];
  const std::string origin = file.string() + ": chat_template";
  if (given.is_string()) return add("default", origin, given.get<std::string>());
  if (!given.is_array()) fail(ErrorKind::corrupt_file, origin + ": expected a text or a list of named templates");
  for (const Json& one : given) {
    const auto is_text = [&](const char* key) { return one.is_object() && one.contains(key) && one[key].is_string(); };
    if (!is_text("name") || !is_text("template"))
      fail(ErrorKind::corrupt_file, origin + ": expected objects with the texts `name` and `template`");
    const auto name = one["name"].get<std::string>();
    add(name, origin + " " + in_quotes(name), one["template"].get<std::string>());
  }
}

ChatTemplate ChatTemplate::load(const fs::path& model) {
  ChatTemplate made;
  if (!fs::is_directory(model)) {
    if (model.extension() == ".json") made.add_from_config(model, true);
    else made.add("default", model.string(), read_text(model));
  } else {
    const bool own_file = fs::exists(model / kTemplateFile);
    if (!own_file || fs::exists(model / kConfig)) made.add_from_config(model / kConfig, !own_file);
    if (own_file) made.add("default", (model / kTemplateFile).string(), read_text(model / kTemplateFile));
  }
  if (made.named_.empty())
    fail(ErrorKind::not_found,
         model.string() + ": no chat template, expected " + kTemplateFile + " or `chat_template` in " + kConfig);
  return made;
}

ChatTemplate ChatTemplate::parse(std::string_view text, const std::string& name) {
  ChatTemplate made;
  made.add("default", name, text);
  return made;
}

std::string ChatTemplate::digest() const { return digest_of(texts_ + special_tokens_->dump()); }

std::string ChatTemplate::render(const ChatInput& input) const {
  const auto find = [&](const char* name) {
    return std::find_if(named_.begin(), named_.end(), [&](const Named& one) { return one.name == name; });
  };
  require_objects(input.messages, "messages");
  if (!input.tools.is_null()) require_objects(input.tools, "tools");
  auto chosen = input.tools.is_null() ? named_.end() : find("tool_use");
  if (chosen == named_.end()) chosen = find("default");
  if (chosen == named_.end())
    fail(ErrorKind::invalid_input, named_.front().origin + ": no template is named \"default\"");

  Json variables = *special_tokens_;
  variables["messages"] = input.messages;
  variables["tools"] = input.tools;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = input.add_generation_prompt;
  if (input.variables.is_object()) variables.update(input.variables);
  const std::string& origin = chosen->origin;
  std::optional<jinja::Evaluator> evaluator;
  try {
    jinja::Evaluator::Variables values;
    for (const auto& [name, value] : variables.items()) values.emplace_back(name, jinja::from_json(value));
    return evaluator.emplace(std::move(values), input.now).run(chosen->block);
  } catch (const jinja::Problem& problem) {
    const std::string line = evaluator ? ": line " + std::to_string(evaluator->line()) : "";
    fail(problem.kind(), origin + line + ": " + one_line(problem.what()));
  }
}

}  // namespace fulgur
