// DocumentStream: the documents of a file one after another, in the memory of the longest one.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace fulgur {

struct Document {
  std::string text;
  std::string kind;      // of a .jsonl line: its string `kind`, else its string `source`; else empty
  std::string messages;  // of a conversation, which then has no text: its line, whose `messages` is a list of objects
};

// Whether a .jsonl line may have `messages` in place of `text`.
enum class Conversations : uint8_t { refused, given };

class DocumentStream {
 public:
  // longest: a .txt document of more bytes comes in pieces. A piece is whole lines and ends where the next line begins
  // with what no word of a pre-tokenizer joins to a newline before it, as letters and digits.
  // Throws not_found, unsupported for another extension than .txt and .jsonl.
  explicit DocumentStream(const std::filesystem::path& file, size_t longest = std::numeric_limits<size_t>::max(),
                          Conversations conversations = Conversations::refused);

  // The next document that is not empty; false at the end. Throws corrupt_file with file and line.
  bool next(Document& document);

  int64_t bytes_read() const { return bytes_read_; }
  int64_t file_bytes() const { return file_bytes_; }
  // Of the last document: file and, of a .jsonl, line.
  std::string where() const;

 private:
  bool read_line();
  bool next_of_text(Document& document);
  bool next_of_json_lines(Document& document);

  const std::filesystem::path file_;
  const size_t longest_;
  const Conversations conversations_;
  std::ifstream in_;
  std::string line_;           // with its newline, where it has one
  bool is_line_held_ = false;  // the last line read belongs to the next piece
  bool is_json_lines_;
  int64_t line_number_ = 0, bytes_read_ = 0, file_bytes_ = 0;
};

}  // namespace fulgur
