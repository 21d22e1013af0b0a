#include "files/toml_file.h"

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"

namespace fulgur {
namespace {

using Json = nlohmann::json;  // keys in the order of TOML tables, which is that of their bytes

Json json_of(const toml::node& node, const std::string& key) {
  if (const auto* table = node.as_table()) {
    Json object = Json::object();
    for (const auto& [name, value] : *table)
      object[std::string(name.str())] = json_of(value, key + "." + std::string(name.str()));
    return object;
  }
  if (const auto* array = node.as_array()) {
    Json list = Json::array();
    for (const toml::node& value : *array) list.push_back(json_of(value, key));
    return list;
  }
  if (const auto value = node.value_exact<std::string>()) return *value;
  if (const auto value = node.value_exact<int64_t>()) return *value;
  if (const auto value = node.value_exact<double>()) return *value;
  if (const auto value = node.value_exact<bool>()) return *value;
  fail(ErrorKind::invalid_input, key + ": dates and times are not understood");
}

Json parse_file(const std::filesystem::path& file) {
  if (!std::filesystem::is_regular_file(file))
    fail(ErrorKind::not_found, file.string() + ": no such configuration file");
  try {
    return json_of(toml::parse_file(file.string()), file.string());
  } catch (const toml::parse_error& error) {
    std::ostringstream where;
    where << file.string() << ":" << error.source().begin.line << ": " << error.description();
    std::string line = where.str();
    std::replace(line.begin(), line.end(), '\n', ' ');
    fail(ErrorKind::invalid_input, line);
  }
}

Json parse_setting(const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == setting.npos || equals == 0 || setting.find('.') > equals)
    fail(ErrorKind::invalid_input, "--set " + setting + ": expected section.key=value");
  const std::string key = setting.substr(0, equals), value = setting.substr(equals + 1);
  for (const std::string& text : {value, Json(value).dump()}) {  // a bare word is a string
    try {
      return json_of(toml::parse(key + " = " + text), "--set " + key);
    } catch (const toml::parse_error&) {
    }
  }
  fail(ErrorKind::invalid_input, "--set " + setting + ": expected section.key=value");
}

void override_with(Json& object, const Json& change) {
  for (const auto& [key, value] : change.items()) {
    if (value.is_object() && object.contains(key) && object[key].is_object()) override_with(object[key], value);
    else object[key] = value;
  }
}

[[noreturn]] void wrong(const std::string& key, const Json& value, const std::string& expected) {
  fail(ErrorKind::invalid_input, key + " = " + value.dump().substr(0, 100) + ": expected " + expected);
}

toml::table table_of(const Json& object);

void insert(toml::array& into, const Json& value);

// Puts a value where `put` says.
template <class Put>
void with_toml(const Json& value, const Put& put) {
  if (value.is_object()) return put(table_of(value));
  if (value.is_string()) return put(value.get<std::string>());
  if (value.is_boolean()) return put(value.get<bool>());
  if (value.is_number_float()) return put(value.get<double>());
  if (value.is_number()) return put(value.get<int64_t>());
  toml::array list;
  for (const Json& element : value) insert(list, element);
  put(std::move(list));
}

void insert(toml::array& into, const Json& value) {
  with_toml(value, [&](auto&& as_toml) { into.push_back(std::forward<decltype(as_toml)>(as_toml)); });
}

toml::table table_of(const Json& object) {
  toml::table table;
  for (const auto& [key, value] : object.items())
    with_toml(value, [&, &name = key](auto&& as_toml) {
      table.insert_or_assign(name, std::forward<decltype(as_toml)>(as_toml));
    });
  return table;
}

std::string one_of(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return list;
}

bool is_among(const Json& word, const std::vector<std::string>& allowed) {
  return word.is_string() &&
         (allowed.empty() || std::find(allowed.begin(), allowed.end(), word.get<std::string>()) != allowed.end());
}

std::string range_of(double least, double most) {
  std::ostringstream range;
  range << "from " << least << " to " << most;
  return range.str();
}

bool lies_within(const Json& value, double least, double most) {
  return value.is_number() && value.get<double>() >= least && value.get<double>() <= most;
}

}  // namespace

int64_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = int64_t(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

TomlReader::TomlReader(const std::filesystem::path& file, const std::vector<std::string>& settings)
    : root_(parse_file(file)) {
  for (const std::string& setting : settings) override_with(root_, parse_setting(setting));
}

const Json* TomlReader::find(const std::string& key) const {
  const Json* at = &root_;
  std::istringstream parts(key);
  for (std::string part; std::getline(parts, part, '.');) {
    if (!at->is_object() || !at->contains(part)) return nullptr;
    at = &at->at(part);
  }
  return at;
}

// The value that is there; the fallback is there from now on.
std::optional<Json> TomlReader::take(const std::string& key, const Json& fallback) {
  if (const Json* found = find(key)) {
    taken_[key] = *found;
    return *found;
  }
  taken_[key] = fallback;
  Json* at = &root_;
  std::istringstream parts(key);
  for (std::string part; std::getline(parts, part, '.');) {
    if (!at->is_object())
      fail(ErrorKind::invalid_input, at->dump() + " is no section: expected one that may hold " + key);
    at = &(*at)[part];
    if (at->is_null()) *at = Json::object();
  }
  *at = fallback;
  return std::nullopt;
}

bool TomlReader::has(const std::string& key) const { return find(key) != nullptr; }

int64_t TomlReader::integer(const std::string& key, int64_t fallback, int64_t least, int64_t most) {
  const auto value = take(key, fallback);
  if (!value) return fallback;
  if (!value->is_number_integer() || value->get<int64_t>() < least || value->get<int64_t>() > most)
    wrong(key, *value,
          "an integer from " + std::to_string(least) +
              (most == std::numeric_limits<int64_t>::max() ? " on" : " to " + std::to_string(most)));
  return value->get<int64_t>();
}

double TomlReader::number(const std::string& key, double fallback, double least, double most) {
  const auto value = take(key, fallback);
  if (!value) return fallback;
  if (!lies_within(*value, least, most)) wrong(key, *value, "a number " + range_of(least, most));
  return value->get<double>();
}

std::vector<double> TomlReader::numbers(const std::string& key, std::vector<double> fallback, double least,
                                        double most) {
  const auto value = take(key, fallback);
  if (!value) return fallback;
  const auto outside = [&](const Json& number) { return !lies_within(number, least, most); };
  if (!value->is_array() || std::any_of(value->begin(), value->end(), outside))
    wrong(key, *value, "a list of numbers " + range_of(least, most));
  return value->get<std::vector<double>>();
}

std::string TomlReader::word(const std::string& key, const std::string& fallback,
                             const std::vector<std::string>& allowed) {
  const auto value = take(key, fallback);
  if (!value) return fallback;
  if (!is_among(*value, allowed)) wrong(key, *value, allowed.empty() ? "a string" : "one of " + one_of(allowed));
  return value->get<std::string>();
}

std::vector<std::string> TomlReader::words(const std::string& key, const std::vector<std::string>& allowed) {
  const auto value = take(key, Json::array());
  if (!value) return {};
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  const auto strange = [&](const Json& word) { return !is_among(word, allowed); };
  if (!list.is_array() || std::any_of(list.begin(), list.end(), strange))
    wrong(key, *value, "a list of " + (allowed.empty() ? "strings" : one_of(allowed)));
  return list.get<std::vector<std::string>>();
}

bool TomlReader::flag(const std::string& key, bool fallback) {
  const auto value = take(key, fallback);
  if (!value) return fallback;
  if (!value->is_boolean()) wrong(key, *value, "true or false");
  return value->get<bool>();
}

nlohmann::ordered_json TomlReader::value(const std::string& key) {
  const Json* found = find(key);
  return taken_[key] = found ? *found : Json();
}

void TomlReader::refuse(const std::string& key, const std::string& why) {
  if (has(key)) fail(ErrorKind::invalid_input, key + ": " + why);
}

void TomlReader::only(const std::string& key, int64_t supported) {
  const auto value = take(key, supported);
  if (value && *value != supported)
    fail(ErrorKind::unsupported,
         key + " = " + value->dump() + ": only " + std::to_string(supported) + " is supported so far");
}

std::vector<std::string> TomlReader::sections(const std::string& key) {
  std::vector<std::string> names;
  const Json* section = find(key);
  if (!section) return names;
  if (!section->is_object()) wrong(key, *section, "sections [" + key + ".NAME]");
  for (const auto& [name, value] : section->items()) {
    if (!value.is_object()) wrong(key + "." + name, value, "a section [" + key + ".NAME]");
    names.push_back(name);
  }
  return names;
}

void TomlReader::refuse_unknown_in(const Json& object, const std::string& prefix) const {
  for (const auto& [name, value] : object.items()) {
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    if (taken_.contains(key)) continue;
    if (value.is_object()) {
      refuse_unknown_in(value, key);
      continue;
    }
    std::string nearest;
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const auto& [known, ignored] : taken_.items())
      if (const int64_t distance = edit_distance(key, known); distance < least) least = distance, nearest = known;
    fail(ErrorKind::invalid_input, "unknown key `" + key + "`: the nearest known one is `" + nearest + "`");
  }
}

void TomlReader::refuse_unknown() const { refuse_unknown_in(root_, ""); }

std::string TomlReader::resolved_text() const {
  std::ostringstream text;
  text << table_of(root_) << '\n';
  return text.str();
}

}  // namespace fulgur
