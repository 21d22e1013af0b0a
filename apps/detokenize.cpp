// detokenize: ids to text.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/error.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

void print(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
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

void add_detokenize(CLI::App& app) {
  const auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command = app.add_subcommand("detokenize", "Prints the text of token ids; invalid UTF-8 becomes U+FFFD.");
  command->add_option("MODEL", options->model, "model folder or tokenizer.json")->required();
  command->add_option("--ids", options->ids, "token ids: 1,2,3")->required();
  command->add_flag("--json", options->json, R"(print {"text": "..."})");
  command->callback([options] { detokenize(*options); });
}

}  // namespace fulgur
