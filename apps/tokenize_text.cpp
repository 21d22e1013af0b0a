// fulgur tokenize: the ids of a text, written as the text is read, so that a file or a pipe may be of any length.
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "apps/commands.h"
#include "base/error.h"
#include "base/progress.h"
#include "text/tokenizer.h"

namespace fulgur {
namespace {

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text, file;
  bool special = false, lines = false, json = false;
};

// The ids on standard output: 1,2,3 or {"ids":[1,2,3],"count":N}; of many lists one a line, or a list of lists.
class IdPrinter {
 public:
  IdPrinter(bool json, bool many) : json_(json), many_(many) {
    if (json_) text_ = R"({"ids":[)";
  }

  void add(std::span<const int32_t> ids) {
    open_list();
    for (const int32_t id : ids) {
      char digits[16];
      if (!std::exchange(at_first_, false)) text_ += ',';
      text_.append(digits, std::to_chars(digits, std::end(digits), id).ptr);
      if (text_.size() > kBuffer) write();
    }
    count_ += int64_t(ids.size());
  }
  void end_list() {
    open_list();
    in_list_ = false;
    if (!json_) text_ += '\n';
    else if (many_) text_ += ']';
  }
  void finish() {
    if (json_) text_ += R"(],"count":)" + std::to_string(count_) + "}\n";
    write();
    if (std::fflush(stdout) != 0) refuse();
  }

 private:
  static constexpr size_t kBuffer = 1 << 16;
  [[noreturn]] static void refuse() {
    fail(ErrorKind::not_found, std::string("standard output: cannot be written: ") + std::strerror(errno));
  }
  void open_list() {
    if (std::exchange(in_list_, true)) return;
    at_first_ = true;
    if (json_ && many_) text_ += std::exchange(any_list_, true) ? ",[" : "[";
  }
  void write() {
    if (std::fwrite(text_.data(), 1, text_.size(), stdout) != text_.size()) refuse();
    text_.clear();
  }

  const bool json_, many_;
  bool in_list_ = false, any_list_ = false, at_first_ = true;
  int64_t count_ = 0;
  std::string text_;
};

// A file, or standard input where the name is -, in parts.
class TextFile {
 public:
  explicit TextFile(const std::string& name) : name_(name == "-" ? "standard input" : name) {
    file_ = name == "-" ? stdin : std::fopen(name.c_str(), "rb");
    if (!file_) refuse();
    std::error_code unknown;
    const auto size = std::filesystem::file_size(name, unknown);
    if (!unknown) size_ = int64_t(size);
  }
  ~TextFile() {
    if (file_ != stdin) std::fclose(file_);
  }
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  // The next part; empty at the end.
  std::string_view next() {
    const size_t bytes = std::fread(part_.data(), 1, part_.size(), file_);
    if (std::ferror(file_)) refuse();
    return {part_.data(), bytes};
  }
  int64_t size() const { return size_; }  // 0 where it is not known

 private:
  [[noreturn]] void refuse() const { fail(ErrorKind::not_found, name_ + ": cannot be read: " + std::strerror(errno)); }

  std::string name_;
  std::FILE* file_;
  int64_t size_ = 0;
  std::vector<char> part_ = std::vector<char>(1 << 20);
};

// The text in parts; with progress where it is long and the ids do not fill the terminal.
void for_each_part(const TokenizeOptions& options, const std::function<void(std::string_view)>& on_part) {
  if (options.text) return on_part(*options.text);
  constexpr int64_t kLong = 8 << 20;  // bytes
  TextFile file(*options.file);
  std::optional<Progress> progress;
  if (file.size() > kLong && isatty(STDOUT_FILENO) == 0) progress.emplace("byte", file.size(), "bytes");
  int64_t done = 0;
  for (std::string_view part = file.next(); !part.empty(); part = file.next()) {
    on_part(part);
    done += int64_t(part.size());
    if (progress) progress->update(done, done);
  }
}

void tokenize_whole(const TokenizeOptions& options, StreamingEncoder& encoder, IdPrinter& ids) {
  for_each_part(options, [&](std::string_view part) { ids.add(encoder.feed(part)); });
  ids.add(encoder.flush());
  ids.end_list();
}

// What stands after the last newline is a line too, unless it is empty.
void tokenize_lines(const TokenizeOptions& options, StreamingEncoder& encoder, IdPrinter& ids) {
  bool begun = false;
  for_each_part(options, [&](std::string_view part) {
    for (size_t end = part.find('\n'); end != part.npos; end = part.find('\n')) {
      ids.add(encoder.feed(part.substr(0, end)));
      ids.add(encoder.flush());
      ids.end_list();
      part.remove_prefix(end + 1);
      begun = false;
    }
    if (part.empty()) return;
    begun = true;
    ids.add(encoder.feed(part));
  });
  if (!begun) return;
  ids.add(encoder.flush());
  ids.end_list();
}

void tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.model);
  StreamingEncoder encoder(tokenizer, options.special ? SpecialTokens::as_ids : SpecialTokens::as_text);
  IdPrinter ids(options.json, options.lines);
  (options.lines ? tokenize_lines : tokenize_whole)(options, encoder, ids);
  ids.finish();
}

}  // namespace

void add_tokenize(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Prints the token ids of a text of any length.");
  command->add_option("MODEL", options->model, "model folder or tokenizer.json")->required();
  CLI::App* source = command->add_option_group("text")->require_option(1);
  source->add_option("--text", options->text, "the text itself");
  source->add_option("--file", options->file, "a file with the text; -: standard input");
  command->add_flag("--special", options->special, "special tokens in the text become their ids");
  command->add_flag("--lines", options->lines, "each line by itself, without its newline: a list of ids a line");
  command->add_flag("--json", options->json,
                    R"(print {"ids": [...], "count": N}; with --lines ids is a list of lists)");
  command->callback([options] { tokenize(*options); });
}

}  // namespace fulgur
