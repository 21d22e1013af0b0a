#include "data/documents.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";

std::string whole_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (!in || std::filesystem::is_directory(file) || !(text << in.rdbuf()))
    fail(ErrorKind::not_found, file.string() + ": cannot be read, or is empty");
  return std::move(text).str();
}

std::vector<std::string> split_lines_of_json(const std::filesystem::path& file, std::string_view text) {
  std::vector<std::string> documents;
  int64_t line_number = 0;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto where = [&] { return file.string() + ":" + std::to_string(line_number) + ": "; };
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object()) fail(ErrorKind::corrupt_file, where() + "expected a JSON object");
    const auto found = object.find("text");
    if (found == object.end() && object.contains("messages"))
      fail(ErrorKind::unsupported,
           where() + "`messages` need a chat template, which training does not apply yet; expected `text`");
    if (found == object.end() || !found->is_string())
      fail(ErrorKind::corrupt_file, where() + "expected a string `text`");
    if (!found->get_ref<const std::string&>().empty()) documents.push_back(found->get<std::string>());
  }
  return documents;
}

}  // namespace

std::vector<std::string> split_documents(std::string_view text) {
  std::vector<std::string> documents;
  std::string document;
  const auto close = [&] {
    if (!document.empty()) documents.push_back(std::move(document));
    document.clear();
  };
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline == std::string_view::npos ? text.size() : newline + 1);
    text.remove_prefix(line.size());
    std::string_view content = line;
    while (!content.empty() && (content.back() == '\n' || content.back() == '\r')) content.remove_suffix(1);
    if (content == kSeparator) close();
    else document += line;
  }
  close();
  return documents;
}

std::vector<std::string> read_documents(const std::filesystem::path& file) {
  const std::string text = whole_file(file);
  if (file.extension() == ".txt") return split_documents(text);
  if (file.extension() == ".jsonl") return split_lines_of_json(file, text);
  fail(ErrorKind::unsupported, file.string() + ": expected a .txt or .jsonl file");
}

}  // namespace fulgur
