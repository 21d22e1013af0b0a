// RawDocuments: the documents of all sources as they lie in their files, read once from begin to end in units of a few
// megabytes. A .txt is split at lines `<|endoftext|>`; each line of a .jsonl or .jsonl.zst is one document.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/prepare_config.h"
#include "data/token_index.h"

namespace fulgur {

struct RawDocument {
  int64_t input, number;  // number: in its input, blank lines of a .jsonl left out
  int64_t line;           // of its begin in the file, from 1
  int64_t size;           // bytes in the file
  size_t begin, end;      // in the unit's bytes; the first part of a document that is longer than max_bytes
};

// Documents of one source that follow each other, of one input or several.
struct RawUnit {
  int64_t number = 0, source = 0;
  std::string bytes;
  std::vector<RawDocument> documents;

  std::string_view text(const RawDocument& d) const { return std::string_view(bytes).substr(d.begin, d.end - d.begin); }
  std::string digest() const;  // of the bytes and of where they come from
};

class RawDocuments {
 public:
  explicit RawDocuments(const PrepareConfig& config);
  ~RawDocuments();

  // None after the last. Throws not_found, corrupt_file for a damaged .zst.
  std::optional<RawUnit> next();

  // Every input in order; digests are there once next() has given none.
  const std::vector<TokenInput>& inputs() const { return inputs_; }
  int64_t bytes_read() const { return bytes_read_; }  // of files

 private:
  class Input;
  bool open_next_input(int64_t source);

  const PrepareConfig& config_;
  std::vector<TokenInput> inputs_;
  std::vector<int64_t> source_of_;  // of each input
  size_t opened_ = 0;
  int64_t units_ = 0, bytes_read_ = 0;
  std::unique_ptr<Input> input_;
};

// A line of a .jsonl as text, which may be no UTF-8. Throws corrupt_file with file and line.
std::string text_of_json_line(std::string_view line, const std::string& path, int64_t line_number);

}  // namespace fulgur
