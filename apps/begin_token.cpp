#include "apps/begin_token.h"

#include <nlohmann/json.hpp>

#include "files/json_file.h"

namespace fulgur {

std::optional<int32_t> begin_token(const Tokenizer& tokenizer, const std::filesystem::path& model) {
  const std::filesystem::path file = model / "tokenizer_config.json";
  if (!std::filesystem::exists(file)) return {};
  const nlohmann::ordered_json config = parse_object(read_text(file), file.string());
  const auto adds = config.find("add_bos_token"), bos = config.find("bos_token");
  const bool begins = adds != config.end() && adds->is_boolean() && adds->get<bool>();
  if (!begins || bos == config.end() || !bos->is_string()) return {};
  return tokenizer.id_of(bos->get<std::string>());
}

}  // namespace fulgur
