// tokenize and detokenize: text to ids and back.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "base/error.h"
#include "files/json_file.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text, file;
  bool special = false, json = false;
};

void print(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
}

std::string joined(const std::vector<int32_t>& ids) {
  std::string list;
  for (const int32_t id : ids) list += (list.empty() ? "" : ",") + std::to_string(id);
  return list;
}

void tokenize(const TokenizeOptions& options) {
  const std::string text = options.file ? read_text(*options.file) : *options.text;
  const Tokenizer tokenizer = Tokenizer::load(options.model);
  const auto ids = tokenizer.encode(text, options.special ? SpecialTokens::as_ids : SpecialTokens::as_text);
  print(options.json ? nlohmann::ordered_json{{"ids", ids}, {"count", ids.size()}}.dump() : joined(ids));
}

// 1,2,3 or [1, 2, 3]
std::vector<int32_t> parse_list(const std::string& list) {
  const bool bracketed = list.find('[') != std::string::npos;
  const nlohmann::json parsed = nlohmann::json::parse(bracketed ? list : "[" + list + "]", nullptr, false);
  const auto is_id = [](const nlohmann::json& id) { return id.is_number_integer() && id >= 0 && id <= INT32_MAX; };
  if (!parsed.is_array() || !std::all_of(parsed.begin(), parsed.end(), is_id)) {
    fail(ErrorKind::invalid_input, "--ids '" + list + "', expected token ids with commas between: 1,2,3");
  }
  return parsed.get<std::vector<int32_t>>();
}

struct DetokenizeOptions {
  std::string model, ids;
  bool json = false;
};

void detokenize(const DetokenizeOptions& options) {
  const std::vector<int32_t> ids = parse_list(options.ids);
  const std::string text = to_valid_utf8(Tokenizer::load(options.model).decode(ids));
  print(options.json ? nlohmann::ordered_json{{"text", text}}.dump() : text);
}

}  // namespace

void add_tokenize(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Prints the token ids of a text.");
  command->add_option("MODEL", options->model, "model folder or tokenizer.json")->required();
  CLI::App* source = command->add_option_group("text")->require_option(1);
  source->add_option("--text", options->text, "the text itself");
  source->add_option("--file", options->file, "a file with the text");
  command->add_flag("--special", options->special, "special tokens in the text become their ids");
  command->add_flag("--json", options->json, R"(print {"ids": [...], "count": N})");
  command->callback([options] { tokenize(*options); });
}

void add_detokenize(CLI::App& app) {
  const auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command = app.add_subcommand("detokenize", "Prints the text of token ids; invalid UTF-8 becomes U+FFFD.");
  command->add_option("MODEL", options->model, "model folder or tokenizer.json")->required();
  command->add_option("--ids", options->ids, "token ids: 1,2,3")->required();
  command->add_flag("--json", options->json, R"(print {"text": "..."})");
  command->callback([options] { detokenize(*options); });
}

}  // namespace fulgur
