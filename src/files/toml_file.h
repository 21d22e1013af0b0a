// TomlReader: a TOML file whose keys are taken one by one, each with its default, and judged; what nobody took is
// refused with the nearest known name. Keys are written with dots: section.key.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
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
  std::string word(const std::string& key, const std::string& fallback);
  std::vector<std::string> words(const std::string& key);
  bool flag(const std::string& key, bool fallback);

  // The names of the sections [key.NAME].
  std::vector<std::string> sections(const std::string& key);
  bool has(const std::string& key) const;
  void refuse_unknown() const;

  // Every key that was taken with its value, as a JSON object.
  const nlohmann::ordered_json& taken() const { return taken_; }

 private:
  const nlohmann::ordered_json* find(const std::string& key) const;
  const nlohmann::ordered_json* take(const std::string& key, const nlohmann::ordered_json& fallback);
  void refuse_unknown_in(const nlohmann::ordered_json& object, const std::string& prefix) const;

  nlohmann::ordered_json root_, taken_ = nlohmann::ordered_json::object();
};

}  // namespace fulgur
