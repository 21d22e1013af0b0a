// tokenizer train and tokenizer compare: vocabularies of our own, and how they do beside others.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/data_files.h"
#include "base/error.h"
#include "base/progress.h"
#include "eval/token_counts.h"
#include "files/atomic.h"
#include "text/bpe_train.h"

namespace fulgur {
namespace {

// Texts are handed to the threads in batches of at least so many bytes; for training, long ones come in pieces.
constexpr size_t kBatchBytes = 16 << 20, kPieceBytes = 1 << 20, kWhole = std::numeric_limits<size_t>::max();

int thread_count(int asked) { return asked > 0 ? asked : available_cores(); }

struct TrainOptions {
  int64_t vocab_size = 0, memory_mib = 2048;
  int threads = 0;
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

int64_t bytes_of(const std::vector<DataFile>& files) {
  int64_t bytes = 0;
  for (const DataFile& file : files) bytes += DocumentStream(file.path).file_bytes();
  return bytes;
}

// Hands the files' documents to `use(kinds, texts)` in batches, and shows the progress.
template <class Use>
void for_each_batch(const std::vector<DataFile>& files, size_t longest, const Use& use) {
  std::vector<std::string> texts, kinds;
  size_t batch_bytes = 0;
  int64_t done = 0;
  Progress progress("bytes read", bytes_of(files), "bytes");
  const auto hand_over = [&] {
    if (!texts.empty()) use(kinds, texts);
    texts.clear(), kinds.clear(), batch_bytes = 0;
  };
  for (const DataFile& file : files) {
    DocumentStream stream(file.path, longest);
    for (Document document; stream.next(document);) {
      kinds.push_back(file.kind_of(document));
      batch_bytes += document.text.size();
      texts.push_back(std::move(document.text));
      if (batch_bytes < kBatchBytes) continue;
      hand_over();
      progress.update(done + stream.bytes_read(), done + stream.bytes_read());
    }
    done += stream.bytes_read();
  }
  hand_over();
  progress.update(done, done);
}

void train_tokenizer(const TrainOptions& options) {
  BpeTrainer trainer(options.vocab_size,
                     {.threads = thread_count(options.threads), .memory_bytes = options.memory_mib << 20});
  for_each_batch(data_files(options.files), kPieceBytes,
                 [&](const std::vector<std::string>&, const std::vector<std::string>& texts) { trainer.add(texts); });
  const BpeTrainer::Words words = trainer.close();
  if (words.distinct < words.all_distinct)
    std::fprintf(stderr,
                 "--memory leaves room for %s of %s different words, the most frequent: %s %% of the text's words\n",
                 short_number(double(words.distinct)).c_str(), short_number(double(words.all_distinct)).c_str(),
                 short_number(100 * double(words.occurrences) / double(words.all_occurrences)).c_str());
  std::optional<Progress> progress;  // its time begins with the merging
  const Vocabulary vocabulary = trainer.train([&](int64_t done, int64_t total) {
    if (!progress) progress.emplace("merges", total, "merges");
    progress->update(done, done);
  });
  progress.reset();
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) fail(ErrorKind::not_found, options.out + ": cannot be made a folder: " + error.message());
  const std::filesystem::path folder = options.out;
  write_file(folder / "tokenizer_config.json", tokenizer_config());
  write_file(folder / "tokenizer.json", to_tokenizer_json(vocabulary));
}

struct CompareOptions {
  std::vector<std::string> tokenizers, data;
  int threads = 0;
  bool json = false;
};

// NAME=PATH, else the path's last folder, or the file where that has another name than tokenizer.json.
std::string name_of_tokenizer(const DataFile& tokenizer) {
  if (!tokenizer.name.empty()) return tokenizer.name;
  std::filesystem::path path = std::filesystem::path(tokenizer.path).lexically_normal();
  if (path.filename().empty() || path.filename() == "tokenizer.json") path = path.parent_path();
  return path.filename().string();
}

struct Comparison {
  std::vector<std::string> tokenizers;
  std::vector<int32_t> vocab_sizes;
  std::map<std::string, TokenCounts> kinds;
  TokenCounts all;
};

Comparison compare(const CompareOptions& options) {
  Comparison result;
  std::vector<Tokenizer> tokenizers;
  for (const DataFile& tokenizer : data_files(options.tokenizers)) {
    tokenizers.push_back(Tokenizer::load(tokenizer.path));
    result.tokenizers.push_back(name_of_tokenizer(tokenizer));
    result.vocab_sizes.push_back(tokenizers.back().vocab_size());
  }
  TokenCounter counter(std::move(tokenizers), thread_count(options.threads));
  for_each_batch(data_files(options.data), kWhole,
                 [&](const std::vector<std::string>& kinds, const std::vector<std::string>& texts) {
                   const std::vector<TokenCounts> counts = counter.count(texts);
                   for (size_t i = 0; i < counts.size(); ++i)
                     result.kinds[kinds[i]].add(counts[i]), result.all.add(counts[i]);
                 });
  if (result.all.documents == 0) fail(ErrorKind::invalid_input, "--data: the files hold no document");
  return result;
}

nlohmann::ordered_json json_of(const Comparison& comparison, const TokenCounts& counts) {
  nlohmann::ordered_json tokenizers;
  for (size_t t = 0; t < comparison.tokenizers.size(); ++t)
    tokenizers.push_back({{"name", comparison.tokenizers[t]},
                          {"vocab_size", comparison.vocab_sizes[t]},
                          {"tokens", counts.tokens[t]},
                          {"bytes_per_token", counts.bytes_per_token(t)},
                          {"tokens_per_character", counts.tokens_per_character(t)}});
  return {{"bytes", counts.bytes}, {"characters", counts.characters}, {"tokenizers", tokenizers}};
}

void print_json(const Comparison& comparison) {
  nlohmann::ordered_json kinds;
  for (const auto& [kind, counts] : comparison.kinds) {
    kinds.push_back({{"kind", kind}});
    kinds.back().update(json_of(comparison, counts));
  }
  const nlohmann::ordered_json report{{"kinds", kinds}, {"all", json_of(comparison, comparison.all)}};
  std::printf("%s\n", report.dump().c_str());
}

// A row for each kind and one for all, a column for each tokenizer.
template <class Figure>
void print_table(const Comparison& comparison, const char* title, const Figure& figure) {
  size_t name_width = 4;
  for (const auto& [kind, counts] : comparison.kinds) name_width = std::max(name_width, kind.size());
  std::vector<std::string> header{"bytes"};
  for (size_t t = 0; t < comparison.tokenizers.size(); ++t)
    header.push_back(comparison.tokenizers[t] + " (" + std::to_string(comparison.vocab_sizes[t]) + ")");
  std::printf("%s\n%-*s", title, int(name_width), "");
  for (const std::string& column : header)
    std::printf("  %*s", int(std::max<size_t>(8, column.size())), column.c_str());
  std::printf("\n");
  const auto print_row = [&](const std::string& kind, const TokenCounts& counts) {
    std::printf("%-*s  %8s", int(name_width), kind.c_str(), short_number(double(counts.bytes)).c_str());
    for (size_t t = 0; t < comparison.tokenizers.size(); ++t)
      std::printf("  %*.3f", int(std::max<size_t>(8, header[t + 1].size())), figure(counts, t));
    std::printf("\n");
  };
  for (const auto& [kind, counts] : comparison.kinds) print_row(kind, counts);
  print_row("all", comparison.all);
}

void compare_tokenizers(const CompareOptions& options) {
  const Comparison comparison = compare(options);
  if (options.json) return print_json(comparison);
  print_table(comparison, "bytes per token", [](const TokenCounts& c, size_t t) { return c.bytes_per_token(t); });
  std::printf("\n");
  print_table(comparison, "tokens per character",
              [](const TokenCounts& c, size_t t) { return c.tokens_per_character(t); });
}

void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "threads; 0: all cores; changes no result")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

void add_train_command(CLI::App& group) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* command = group.add_subcommand("train", "Trains byte-level BPE on texts and writes tokenizer.json.");
  command->add_option("--vocab-size", options->vocab_size, "tokens in all: bytes, merges, special")->required();
  command->add_option("--out", options->out, "folder to write to")->required();
  command
      ->add_option(
          "--memory", options->memory_mib,
          "MiB for the words of the text; where more do not fit, merges are learnt from the most frequent ones")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add_threads(*command, options->threads);
  command->add_option("FILES", options->files, ".txt or .jsonl files")->required();
  command->callback([options] { train_tokenizer(*options); });
}

void add_compare_command(CLI::App& group) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* command =
      group.add_subcommand("compare", "Bytes per token and tokens per character of tokenizers, by kind of text.");
  command->add_option("TOKENIZERS", options->tokenizers, "model folders or tokenizer.json files; NAME=PATH names one")
      ->required();
  command->add_option("--data", options->data, std::string("files: ") + kDataHelp)->required();
  add_threads(*command, options->threads);
  command->add_flag("--json", options->json, "one JSON document instead of tables");
  command->callback([options] { compare_tokenizers(*options); });
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App* group = app.add_subcommand("tokenizer", "Trains vocabularies and compares them.")->require_subcommand(1);
  add_train_command(*group);
  add_compare_command(*group);
}

}  // namespace fulgur
