#include "data/document_stream.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";

bool is_separator(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
  return line == kSeparator;
}

// ASCII letters and digits, U+00C0 .. U+07FF, from U+4000 on: none is white space or a slash, which alone are in one
// word with a newline before them, and nothing composes with a newline.
bool begins_a_word(std::string_view line) {
  if (line.empty()) return false;
  const auto lead = uint8_t(line[0]);
  const auto is_in = [&](int first, int last) { return lead >= first && lead <= last; };
  return is_in('0', '9') || is_in('A', 'Z') || is_in('a', 'z') || is_in(0xC3, 0xDF) || is_in(0xE4, 0xF4);
}

std::string string_in(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool is_conversation(const nlohmann::json& messages) {
  return messages.is_array() && !messages.empty() &&
         std::all_of(messages.begin(), messages.end(), [](const nlohmann::json& m) { return m.is_object(); });
}

Document document_of(const std::string& line, const std::string& where, Conversations conversations) {
  nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) fail(ErrorKind::corrupt_file, where + "expected a JSON object");
  std::string kind = string_in(object, "kind");
  if (kind.empty()) kind = string_in(object, "source");
  const auto text = object.find("text"), messages = object.find("messages");
  if (text == object.end() && messages != object.end()) {
    if (conversations == Conversations::refused)
      fail(ErrorKind::unsupported,
           where +
               "`messages` need a chat template, which only files of data.train and data.validation get; expected "
               "`text`");
    if (!is_conversation(*messages))
      fail(ErrorKind::corrupt_file, where + "expected `messages` to be a list of objects");
    return {"", std::move(kind), line};
  }
  if (text == object.end() || !text->is_string()) fail(ErrorKind::corrupt_file, where + "expected a string `text`");
  return {std::move(text->get_ref<std::string&>()), std::move(kind), ""};
}

}  // namespace

DocumentStream::DocumentStream(const std::filesystem::path& file, size_t longest, Conversations conversations)
    : file_(file),
      longest_(longest),
      conversations_(conversations),
      in_(file, std::ios::binary),
      is_json_lines_(file.extension() == ".jsonl") {
  if (!is_json_lines_ && file.extension() != ".txt")
    fail(ErrorKind::unsupported, file.string() + ": expected a .txt or .jsonl file");
  std::error_code error;
  file_bytes_ = int64_t(std::filesystem::file_size(file, error));
  if (!in_ || error || file_bytes_ == 0) fail(ErrorKind::not_found, file.string() + ": cannot be read, or is empty");
}

bool DocumentStream::next(Document& document) {
  return is_json_lines_ ? next_of_json_lines(document) : next_of_text(document);
}

std::string DocumentStream::where() const {
  return is_json_lines_ ? file_.string() + ":" + std::to_string(line_number_) : file_.string();
}

bool DocumentStream::read_line() {
  if (is_line_held_) return is_line_held_ = false, true;
  if (!std::getline(in_, line_)) {
    if (in_.bad()) fail(ErrorKind::not_found, file_.string() + ": cannot be read on");
    return false;
  }
  if (!in_.eof()) line_ += '\n';
  bytes_read_ += int64_t(line_.size()), ++line_number_;
  return true;
}

bool DocumentStream::next_of_text(Document& document) {
  document = {};
  while (read_line()) {
    if (is_separator(line_)) {
      if (!document.text.empty()) return true;
    } else if (document.text.size() >= longest_ && begins_a_word(line_)) {
      return is_line_held_ = true;
    } else {
      document.text += line_;
    }
  }
  return !document.text.empty();
}

bool DocumentStream::next_of_json_lines(Document& document) {
  while (read_line()) {
    if (line_.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    document = document_of(line_, where() + ": ", conversations_);
    if (!document.text.empty() || !document.messages.empty()) return true;
  }
  return false;
}

}  // namespace fulgur
