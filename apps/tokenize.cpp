// detokenize and tokenizer train: ids to text, and vocabularies of our own.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/error.h"
#include "data/documents.h"
#include "files/atomic.h"
#include "text/bpe_train.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

void print(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
}

// 1,2,3 or [1, 2, 3]
std::vector<int32_t> parse_list(const std::string& list) {
  const bool bracketed = list.find('[') != std::string::npos;
  const nlohmann::json parsed = nlohmann::json::parse(bracketed ? list : "[" + list + "]", nullptr, false);
  const auto is_id = [](const nlohmann::json& id) { return id.is_number_integer() && id >= 0 && id <= INT32_MAX; };
  if (!parsed.is_array() || !std::all_of(parsed.begin(), parsed.end(), is_id)) {
    fail(ErrorKind::invalid_input, "--ids '" + list + "', expected token ids with commas between: 1,2,3");
  }
  return parsed.get<std::vector<int32_t>>();
}

struct DetokenizeOptions {
  std::string model, ids;
  bool json = false;
};

void detokenize(const DetokenizeOptions& options) {
  const std::vector<int32_t> ids = parse_list(options.ids);
  const std::string text = to_valid_utf8(Tokenizer::load(options.model).decode(ids));
  print(options.json ? nlohmann::ordered_json{{"text", text}}.dump() : text);
}

// Progress on standard error: one line that changes on a terminal, a line every tenth elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}

  void show(int64_t done, int64_t total) {
    const int64_t step = done * (terminal_ ? 100 : 10) / total;
    if (step == shown_) return;
    shown_ = step;
    const char* line = terminal_ ? "\r%s: %lld of %lld" : "%s: %lld of %lld\n";
    std::fprintf(stderr, line, what_.c_str(), static_cast<long long>(done), static_cast<long long>(total));
    if (terminal_ && done == total) std::fputc('\n', stderr);
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO);
  std::string what_;
  int64_t shown_ = -1;
};

struct TrainOptions {
  int64_t vocab_size = 0;
  std::string out;
  std::vector<std::string> files;
};

std::string tokenizer_config() {
  return nlohmann::ordered_json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"add_prefix_space", false},
                                {"add_bos_token", true},
                                {"bos_token", kOurSpecialTokens[0]},
                                {"eos_token", kOurSpecialTokens[1]},
                                {"pad_token", kOurSpecialTokens[3]},
                                {"clean_up_tokenization_spaces", false}}
             .dump(1) +
         "\n";
}

void train_tokenizer(const TrainOptions& options) {
  BpeTrainer trainer(options.vocab_size);
  ProgressLine reading("files read"), merging("merges");
  for (size_t i = 0; i < options.files.size(); ++i) {
    for (const std::string& document : read_documents(options.files[i])) trainer.add(document);
    reading.show(int64_t(i) + 1, int64_t(options.files.size()));
  }
  const Vocabulary vocabulary = trainer.train([&](int64_t done, int64_t total) { merging.show(done, total); });
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) fail(ErrorKind::not_found, options.out + ": cannot be made a folder: " + error.message());
  const std::filesystem::path folder = options.out;
  write_file(folder / "tokenizer_config.json", tokenizer_config());
  write_file(folder / "tokenizer.json", to_tokenizer_json(vocabulary));
}

}  // namespace

void add_detokenize(CLI::App& app) {
  const auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command = app.add_subcommand("detokenize", "Prints the text of token ids; invalid UTF-8 becomes U+FFFD.");
  command->add_option("MODEL", options->model, "model folder or tokenizer.json")->required();
  command->add_option("--ids", options->ids, "token ids: 1,2,3")->required();
  command->add_flag("--json", options->json, R"(print {"text": "..."})");
  command->callback([options] { detokenize(*options); });
}

void add_tokenizer(CLI::App& app) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* group = app.add_subcommand("tokenizer", "Makes vocabularies.")->require_subcommand(1);
  CLI::App* command = group->add_subcommand("train", "Trains byte-level BPE on texts and writes tokenizer.json.");
  command->add_option("--vocab-size", options->vocab_size, "tokens in all: bytes, merges, special")->required();
  command->add_option("--out", options->out, "folder to write to")->required();
  command->add_option("FILES", options->files, ".txt or .jsonl files")->required();
  command->callback([options] { train_tokenizer(*options); });
}

}  // namespace fulgur
