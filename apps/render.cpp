// render: the text that a chat template makes of messages.
#include <cstdio>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "base/error.h"
#include "files/json_file.h"
#include "text/chat_template.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

struct RenderOptions {
  std::string model, messages;
  std::optional<std::string> tools;
  std::vector<std::string> set;
  bool no_generation_prompt = false, json = false;
};

// What the files and options say: `messages`, `tools`, `add_generation_prompt` and the template's other variables.
struct Request {
  Json messages, tools, variables = Json::object();
  bool add_generation_prompt = true;
};

// A list of messages, or an object with `messages` and further variables.
void read_messages(const std::string& file, Request& request) {
  Json given = parse_json(read_text(file), file);
  if (given.is_array()) return void(request.messages = std::move(given));
  if (!given.is_object() || !given.contains("messages"))
    fail(ErrorKind::invalid_input, file + ": expected a list of messages, or an object with `messages`");
  for (auto& [key, value] : given.items()) {
    if (key == "messages") request.messages = std::move(value);
    else if (key == "tools") request.tools = std::move(value);
    else if (key != "add_generation_prompt") request.variables[key] = std::move(value);
    else if (value.is_boolean()) request.add_generation_prompt = value.get<bool>();
    else fail(ErrorKind::invalid_input, file + ": add_generation_prompt: expected true or false");
  }
}

// key=json
void set_variable(const std::string& option, Request& request) {
  const size_t equals = option.find('=');
  if (equals == option.npos || equals == 0)
    fail(ErrorKind::invalid_input, "--set " + in_quotes(option) + ", expected key=json");
  const std::string key = option.substr(0, equals);
  for (const char* taken : {"messages", "tools", "add_generation_prompt"})
    if (key == taken) fail(ErrorKind::invalid_input, "--set " + key + ": expected another variable of the template");
  if (!Json::accept(option.substr(equals + 1)))
    fail(ErrorKind::invalid_input, "--set " + key + ": " + in_quotes(option.substr(equals + 1)) +
                                       " is no JSON (a text has quotes: " + key + "='\"text\"')");
  request.variables[key] = parse_json(option.substr(equals + 1), "--set " + key);
}

void render(const RenderOptions& options) {
  Request request;
  read_messages(options.messages, request);
  if (options.tools) request.tools = parse_json(read_text(*options.tools), *options.tools);
  for (const std::string& option : options.set) set_variable(option, request);
  if (options.no_generation_prompt) request.add_generation_prompt = false;
  const std::string text = ChatTemplate::load(options.model)
                               .render({.messages = request.messages,
                                        .tools = request.tools,
                                        .variables = request.variables,
                                        .add_generation_prompt = request.add_generation_prompt,
                                        .now = std::time(nullptr)});
  const std::string shown = options.json ? Json{{"text", text}}.dump() + "\n" : text;
  std::fwrite(shown.data(), 1, shown.size(), stdout);
}

}  // namespace

void add_render(CLI::App& app) {
  const auto options = std::make_shared<RenderOptions>();
  CLI::App* command = app.add_subcommand("render", "Prints the text that a chat template makes of messages.");
  command->add_option("MODEL_OR_TEMPLATE", options->model, "model folder, tokenizer_config.json or a .jinja file")
      ->required();
  command
      ->add_option("--messages", options->messages,
                   R"(JSON: a list of messages, or {"messages": [...], "tools": [...], ...})")
      ->required();
  command->add_option("--tools", options->tools, "JSON: a list of tools");
  command->add_option("--set", options->set, "key=json: one more variable of the template; may be repeated")
      ->take_all();
  command->add_flag("--no-generation-prompt", options->no_generation_prompt,
                    "end behind the last message, not where the assistant begins");
  command->add_flag("--json", options->json, R"(print {"text": "..."})");
  command->callback([options] { render(*options); });
}

}  // namespace fulgur
