#include "data/raw_documents.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/byte_stream.h"
#include "files/digest.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr size_t kLongestSeparator = kSeparator.size() + 2;  // with its line end

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == text.npos; }

bool is_separator(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
  return line == kSeparator;
}

}  // namespace

// The documents of one file.
class RawDocuments::Input {
 public:
  Input(int64_t number, const std::filesystem::path& file, int64_t max_bytes)
      : number_(number), stream_(file), max_bytes_(max_bytes), lines_are_documents_(file.extension() != ".txt") {}

  // Appends the next document; false at the end.
  bool append_to(RawUnit& unit) {
    RawDocument document{number_, documents_, line_, 0, unit.bytes.size(), 0};
    bool blank = true;
    for (std::string_view piece; !(piece = next_piece()).empty();) {
      const bool whole_line = begins_line_ && ends_line_;
      const bool ends = lines_are_documents_ ? ends_line_ : whole_line && is_separator(piece);
      if (lines_are_documents_ || !ends) {
        document.size += int64_t(piece.size());
        const size_t room = size_t(max_bytes_) + 1 - (unit.bytes.size() - document.begin);
        unit.bytes.append(piece.substr(0, room));
        blank = blank && lines_are_documents_ && is_blank(piece);
      }
      line_ += ends_line_, begins_line_ = ends_line_;
      if (!ends) continue;
      if (close(unit, document, blank)) return true;
      document.line = line_, document.size = 0, blank = true;
    }
    return close(unit, document, blank);
  }

  int64_t bytes_read() const { return stream_.bytes_read(); }
  std::string digest() const { return stream_.digest(); }

 private:
  // A line with its \n, or as much of it as there is.
  std::string_view next_piece() {
    if (left_.empty()) left_ = stream_.next();
    const size_t newline = left_.find('\n');
    // A line that the end of a piece cuts is kept together as long as it may be a separator.
    if (newline == left_.npos && begins_line_ && left_.size() <= kLongestSeparator && !left_.empty()) return joined();
    ends_line_ = newline != left_.npos;
    const std::string_view piece = left_.substr(0, ends_line_ ? newline + 1 : left_.size());
    left_.remove_prefix(piece.size());
    return piece;
  }
  std::string_view joined() {
    joined_.clear(), ends_line_ = false;
    while (!ends_line_ && joined_.size() <= kLongestSeparator) {
      const size_t newline = left_.find('\n');
      const std::string_view taken = left_.substr(0, newline == left_.npos ? kLongestSeparator + 1 : newline + 1);
      joined_ += taken;
      left_.remove_prefix(taken.size());
      ends_line_ = joined_.ends_with('\n');
      if (!ends_line_ && left_.empty()) left_ = stream_.next(), ends_line_ = left_.empty();
    }
    return joined_;
  }
  bool close(RawUnit& unit, RawDocument& document, bool blank) {
    if (blank) {
      unit.bytes.resize(document.begin);
      return false;
    }
    document.end = unit.bytes.size();
    ++documents_;
    unit.documents.push_back(document);
    return true;
  }

  int64_t number_;
  ByteStream stream_;
  int64_t max_bytes_;
  bool lines_are_documents_;
  std::string_view left_;  // of the stream's last piece
  std::string joined_;
  bool begins_line_ = true, ends_line_ = false;
  int64_t documents_ = 0, line_ = 1;
};

std::string RawUnit::digest() const {
  Digest all;
  const int64_t head[] = {number, source};
  all.add(std::as_bytes(std::span(head)));
  for (const RawDocument& d : documents) {
    const int64_t place[] = {d.input, d.number, d.size};
    all.add(std::as_bytes(std::span(place)));
  }
  all.add(std::as_bytes(std::span(bytes)));
  return all.text();
}

RawDocuments::RawDocuments(const PrepareConfig& config) : config_(config) {
  for (size_t s = 0; s < config.sources.size(); ++s)
    for (const std::string& file : config.sources[s].files) {
      inputs_.push_back({config.sources[s].name, file, "", 0});
      source_of_.push_back(int64_t(s));
    }
}

RawDocuments::~RawDocuments() = default;

bool RawDocuments::open_next_input(int64_t source) {
  if (opened_ == inputs_.size() || (source >= 0 && source_of_[opened_] != source)) return false;
  input_ = std::make_unique<Input>(int64_t(opened_), inputs_[opened_].path, config_.max_bytes);
  ++opened_;
  return true;
}

std::optional<RawUnit> RawDocuments::next() {
  RawUnit unit{.number = units_, .source = -1, .bytes = {}, .documents = {}};
  while (int64_t(unit.bytes.size()) < config_.unit_bytes) {
    if (!input_ && !open_next_input(unit.source)) break;
    const int64_t before = input_->bytes_read();
    const bool more = input_->append_to(unit);
    bytes_read_ += input_->bytes_read() - before;
    if (more) unit.source = source_of_[opened_ - 1];
    if (more) continue;
    TokenInput& done = inputs_[opened_ - 1];
    done.digest = input_->digest(), done.bytes = input_->bytes_read();
    input_.reset();
  }
  if (unit.documents.empty()) return std::nullopt;
  ++units_;
  return unit;
}

// Bytes that are no UTF-8, which JSON may not hold, pass through the parser as characters of a private plane.
std::string text_of_json_line(std::string_view line, const std::string& path, int64_t line_number) {
  constexpr uint32_t kPrivate = 0x10FF00;
  std::string escaped;
  for (size_t at = 0; at < line.size();) {
    int invalid = 1;
    const int valid = uint8_t(line[at]) < 0x80 ? 1 : utf8_sequence(line.substr(at), invalid);
    if (valid > 0) {
      escaped.append(line.substr(at, size_t(valid))), at += size_t(valid);
      continue;
    }
    const uint32_t c = kPrivate + uint8_t(line[at++]);
    escaped.append(
        {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 0x3F)), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))});
  }
  const std::string where = path + ":" + std::to_string(line_number) + ": ";
  const nlohmann::json object = nlohmann::json::parse(escaped, nullptr, false);
  if (!object.is_object()) fail(ErrorKind::corrupt_file, where + "expected a JSON object");
  const auto found = object.find("text");
  if (found == object.end() || !found->is_string()) fail(ErrorKind::corrupt_file, where + "expected a string `text`");
  std::string text = found->get<std::string>();
  if (escaped.size() == line.size()) return text;
  std::string raw;
  for (size_t at = 0; at < text.size();) {
    uint8_t bytes;
    const uint32_t c = code_point_at(text.data() + at, bytes);
    if (c >= kPrivate + 0x80 && c <= kPrivate + 0xFF) raw.push_back(char(c - kPrivate));
    else raw.append(text, at, bytes);
    at += bytes;
  }
  return raw;
}

}  // namespace fulgur
