// TomlReader: a TOML file whose keys are taken one by one, each with its default, and judged; what nobody took is
// refused with the nearest known name. Keys are written with dots: section.key.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace fulgur {

// Letters to insert, leave out or replace: which known name is nearest to an unknown one.
int64_t edit_distance(const std::string& a, const std::string& b);

class TomlReader {
 public:
  // settings: section.key=value, as given to --set; they override the file. Throws not_found, invalid_input with the
  // file and the line.
  TomlReader(const std::filesystem::path& file, const std::vector<std::string>& settings);

  // All throw invalid_input with the key, its value and what was expected.
  int64_t integer(const std::string& key, int64_t fallback, int64_t least,
                  int64_t most = std::numeric_limits<int64_t>::max());
  double number(const std::string& key, double fallback, double least, double most);
  std::vector<double> numbers(const std::string& key, std::vector<double> fallback, double least, double most);
  // allowed: where only some words are.
  std::string word(const std::string& key, const std::string& fallback, const std::vector<std::string>& allowed = {});
  std::vector<std::string> words(const std::string& key, const std::vector<std::string>& allowed = {});
  bool flag(const std::string& key, bool fallback);
  // A whole value without a default, unjudged; null where the key is absent.
  nlohmann::ordered_json value(const std::string& key);
  // A key that the others' values leave no room for.
  void refuse(const std::string& key, const std::string& why);
  // A key that only one value is supported of so far. Throws unsupported for another.
  void only(const std::string& key, int64_t supported);

  // The names of the sections [key.NAME].
  std::vector<std::string> sections(const std::string& key);
  bool has(const std::string& key) const;
  void refuse_unknown() const;

  // Every key that was taken with its value, as a JSON object.
  const nlohmann::ordered_json& taken() const { return taken_; }
  // The whole file, overrides and the defaults that were taken included: as an object of sections, and as TOML.
  const nlohmann::json& resolved() const { return root_; }
  std::string resolved_text() const;

 private:
  const nlohmann::json* find(const std::string& key) const;
  std::optional<nlohmann::json> take(const std::string& key, const nlohmann::json& fallback);
  void refuse_unknown_in(const nlohmann::json& object, const std::string& prefix) const;

  nlohmann::json root_;
  nlohmann::ordered_json taken_ = nlohmann::ordered_json::object();
};

}  // namespace fulgur
