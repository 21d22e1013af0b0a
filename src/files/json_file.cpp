#include "files/json_file.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "files/mmap.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& origin, const std::string& what) {
  fail(ErrorKind::corrupt_file, origin + ": " + what);
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

size_t after_spaces(std::string_view text, size_t at) {
  while (at < text.size() && is_space(text[at])) ++at;
  return at;
}

size_t after_string(std::string_view text, size_t at) {  // text[at] opens it
  for (++at; text[at] != '"'; ++at)
    if (text[at] == '\\') ++at;
  return at + 1;
}

size_t after_value(std::string_view text, size_t at) {
  if (text[at] == '"') return after_string(text, at);
  int depth = 0;
  while (true) {
    const char c = text[at];
    if (c == '"') {
      at = after_string(text, at);
      continue;
    }
    if (c == '{' || c == '[') ++depth;
    if (depth == 0 && (c == ',' || c == '}' || c == ']' || is_space(c))) return at;
    ++at;
    if ((c == '}' || c == ']') && --depth == 0) return at;
  }
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

Json parse_json(std::string_view text, const std::string& origin) {
  // The parser takes a zero byte for the end of its input.
  if (text.find('\0') != text.npos)
    refuse(origin, "no valid JSON at byte " + std::to_string(text.find('\0')) + ": a zero byte");
  std::vector<std::set<std::string>> keys;
  constexpr int kDeepest = 100;  // what prints and compares a value calls itself at every level
  const auto judge = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDeepest)
      refuse(origin, "lists and objects are nested more than " + std::to_string(kDeepest) + " deep");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      refuse(origin, "the key " + in_quotes(parsed.get<std::string>()) + " is there twice");
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(text.begin(), text.end(), judge);
  } catch (const Json::parse_error& error) {
    refuse(origin, "no valid JSON at byte " + std::to_string(error.byte) + " of " + std::to_string(text.size()));
  } catch (const Json::exception&) {
    refuse(origin, "holds a number that no f64 can hold");
  }
  return parsed;
}

Json parse_object(std::string_view text, const std::string& origin) {
  Json parsed = parse_json(text, origin);
  if (!parsed.is_object()) refuse(origin, "expected a JSON object");
  return parsed;
}

std::string with_value(std::string_view text, std::string_view key, std::string_view value) {
  size_t at = after_spaces(text, text.find('{') + 1);
  while (text[at] == '"') {
    const size_t key_end = after_string(text, at);
    const bool same = Json::parse(text.substr(at, key_end - at)).get<std::string>() == key;
    const size_t begin = after_spaces(text, text.find(':', key_end) + 1), end = after_value(text, begin);
    if (same) return std::string(text.substr(0, begin)).append(value).append(text.substr(end));
    at = after_spaces(text, end);
    if (text[at] == ',') at = after_spaces(text, at + 1);
  }
  return std::string(text);
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kLongest = 160;
  std::string line = "\"";
  for (const char c : text.substr(0, kLongest)) {
    char escaped[8];
    if (c >= ' ' && c <= '~') line += c;
    else std::snprintf(escaped, sizeof escaped, "\\x%02x", unsigned(uint8_t(c))), line += escaped;
  }
  return line + (text.size() > kLongest ? "..." : "") + "\"";
}

}  // namespace fulgur
