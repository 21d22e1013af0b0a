// fulgur data: raw text to prepared data, and a look at it.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/model_scorer.h"
#include "base/error.h"
#include "data/packed_rows.h"
#include "data/prepare.h"
#include "data/report.h"
#include "data/token_shards.h"
#include "files/atomic.h"
#include "files/json_file.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "train/run_course.h"

namespace fulgur {
namespace {

struct PrepareOptions {
  std::string config;
  std::vector<std::string> settings;
};

void run_prepare(const PrepareOptions& o) {
  const PrepareConfig config = read_prepare_config(o.config, o.settings);
  std::unique_ptr<Scorer> scorer;
  if (!config.model.empty()) scorer = make_model_scorer(config.model, config.score_bytes, config.thread_count());
  const Prepared prepared = prepare(config, scorer.get());
  const DataReport report = read_data_report(config.out / kReportFile);
  write_file(config.out / "report.html", report_html(report));
  std::printf("%s", report_text(report).c_str());
  std::printf("%s %s; a page to read: %s\n", config.out.string().c_str(),
              prepared == Prepared::now ? "is complete" : "was complete already",
              (config.out / "report.html").string().c_str());
}

struct InspectOptions {
  std::string folder, source, tokenizer;  // folder: or a run's configuration
  std::vector<std::string> settings;
  std::optional<int64_t> document, row;
  int64_t sequence = 0;
  uint64_t seed = 0;
  bool check = false, json = false;
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// The tokenizer that made the tokens: given, or the one that the folder's configuration names.
Tokenizer tokenizer_of(const InspectOptions& o, const TokenIndex& index) {
  std::string path = o.tokenizer;
  if (path.empty()) {
    const std::string file = (std::filesystem::path(o.folder) / kPrepareConfiguration).string();
    path = parse_object(read_text(file), file).value("prepare.tokenizer", "");
  }
  if (std::error_code ignored; !std::filesystem::exists(path, ignored))
    fail(ErrorKind::not_found,
         "the tokenizer " + path + " is not there; expected --tokenizer with the one that made " + o.folder);
  Tokenizer tokenizer = Tokenizer::load(path);
  if (std::to_string(tokenizer.digest()) != index.tokenizer_digest)
    fail(ErrorKind::invalid_input,
         path + " gives other tokens than " + o.folder + " holds; expected --tokenizer with the one that made it");
  return tokenizer;
}

const TokenShards::Source& source_of(const InspectOptions& o, const TokenShards& shards) {
  if (!o.source.empty()) return shards.source(o.source);
  if (shards.sources().size() != 1)
    fail(ErrorKind::invalid_input,
         "--source: expected one, since " + o.folder + " holds " + std::to_string(shards.sources().size()));
  return shards.sources().front();
}

nlohmann::ordered_json json_of_document(const TokenShards& shards, const TokenShards::Source& source, int64_t i,
                                        const Tokenizer& tokenizer) {
  const std::span<const int32_t> tokens = source.document(i);
  const auto [input, number] = source.origin(i);
  const std::string text = to_valid_utf8(tokenizer.decode(tokens.subspan(1, tokens.size() - 2)));
  return {{"source", source.name()},
          {"document", i},
          {"input", shards.index().inputs.at(size_t(input)).path},
          {"number", number},
          {"label", source.label(i)},
          {"bytes", source.bytes(i)},
          {"tokens", tokens.size()},
          {"text", text}};
}

void show_document(const InspectOptions& o, const TokenShards& shards) {
  const TokenShards::Source& source = source_of(o, shards);
  if (*o.document >= source.documents())
    fail(ErrorKind::invalid_input, "--document " + std::to_string(*o.document) + ": source " + source.name() + " has " +
                                       std::to_string(source.documents()) + " documents, from 0");
  const Tokenizer tokenizer = tokenizer_of(o, shards.index());
  const nlohmann::ordered_json d = json_of_document(shards, source, *o.document, tokenizer);
  std::string ids;
  for (const int32_t id : source.document(*o.document)) ids += (ids.empty() ? "" : ",") + std::to_string(id);
  print("source " + source.name() + ", document " + std::to_string(*o.document) + " of " +
        std::to_string(source.documents()) + "\n");
  print("from " + d["input"].get<std::string>() + ", its document " + std::to_string(d["number"].get<int64_t>()) +
        "\n");
  print("label " + d["label"].dump() + ", " + d["bytes"].dump() + " bytes, " + d["tokens"].dump() + " tokens\n");
  print("tokens " + ids + "\n\n" + d["text"].get<std::string>() + "\n");
}

// Every document as a line of JSON, as `tokenize` and tests read it.
void dump_documents(const InspectOptions& o, const TokenShards& shards) {
  const Tokenizer tokenizer = tokenizer_of(o, shards.index());
  for (const TokenShards::Source& source : shards.sources())
    for (int64_t i = 0; (o.source.empty() || o.source == source.name()) && i < source.documents(); ++i)
      print(json_of_document(shards, source, i, tokenizer).dump() + "\n");
}

void show_pieces(const PackedRow& row, const Tokenizer& tokenizer, int32_t begin_of_sentence) {
  for (size_t p = 0; p < row.begin.size(); ++p) {
    const size_t begin = size_t(row.begin[p]),
                 end = p + 1 < row.begin.size() ? size_t(row.begin[p + 1]) : row.tokens.size();
    const std::span<const int32_t> piece = std::span(row.tokens).subspan(begin, end - begin);
    const bool starts = piece.front() == begin_of_sentence, ends = row.targets[end - 1] < 0;
    std::printf("\ntokens %zu to %zu, %s%s\n", begin, end - 1,
                starts ? "from a document's begin" : "from within a document", ends ? " to its end" : "");
    print(to_valid_utf8(tokenizer.decode(piece)) + "\n");
  }
}

void show_row(const InspectOptions& o, const TokenShards& shards) {
  if (o.sequence < 2) fail(ErrorKind::invalid_input, "--row: expected --sequence with the tokens of a row, 2 or more");
  const TokenShards::Source& source = source_of(o, shards);
  TokenizedDocuments documents;
  for (int64_t i = 0; i < source.documents(); ++i) documents.add(source.document(i));
  PackedRows rows(std::move(documents), o.sequence, o.seed);
  const PackedRow row = rows.row(*o.row);
  std::printf("row %lld of source %s, %lld tokens a row, seed %llu: %zu pieces of documents\n",
              static_cast<long long>(*o.row), source.name().c_str(), static_cast<long long>(o.sequence),
              static_cast<unsigned long long>(o.seed), row.begin.size());
  show_pieces(row, tokenizer_of(o, shards.index()), shards.index().begin_of_sentence);
}

// Of the mixture that a run takes its rows from, by the global sample index.
void show_row_of_run(const InspectOptions& o) {
  if (!o.row || !o.source.empty() || o.document || o.sequence != 0 || o.seed != 0 || !o.tokenizer.empty() || o.check ||
      o.json)
    fail(ErrorKind::invalid_input, o.folder + " is a file, so a run's configuration: expected --row, --set alone");
  const RunConfig run = read_run_config(o.folder, o.settings);
  const RunCorpus corpus = read_run_corpus(run.tokenizer, run.train_files, {});
  MixedRows rows = rows_of(run, corpus);
  const int64_t all = run.rows_through(run.steps);
  if (*o.row >= all)
    fail(ErrorKind::invalid_input,
         "--row " + std::to_string(*o.row) + ": the run has " + std::to_string(all) + " rows, from 0");
  const MixedRow origin = rows.origin(*o.row);
  const PackedRow row = rows.row(*o.row);
  std::printf("row %lld of %lld, %lld tokens a row, seed %llu: row %lld of source %s, %zu pieces of documents\n",
              static_cast<long long>(*o.row), static_cast<long long>(all), static_cast<long long>(run.sequence),
              static_cast<unsigned long long>(run.seed), static_cast<long long>(origin.row),
              rows.sources()[size_t(origin.source)].name.c_str(), row.begin.size());
  show_pieces(row, Tokenizer::load(run.tokenizer), corpus.begin_of_sentence);
}

void show_folder(const InspectOptions& o, const TokenShards& shards) {
  const TokenIndex& index = shards.index();
  std::printf("%s: fingerprint %s, vocabulary of %d, tokenizer %s\n", o.folder.c_str(), index.fingerprint().c_str(),
              index.vocab_size, index.tokenizer_digest.c_str());
  std::printf("%-16s %8s %12s %14s %14s %7s\n", "source", "weight", "documents", "tokens", "bytes", "shards");
  for (const TokenSource& s : index.sources)
    std::printf("%-16s %8.4g %12lld %14lld %14lld %7zu\n", s.name.c_str(), s.weight,
                static_cast<long long>(s.documents()), static_cast<long long>(s.tokens()),
                static_cast<long long>(s.bytes()), s.shards.size());
}

void run_inspect(const InspectOptions& o) {
  if (std::error_code ignored; std::filesystem::is_regular_file(o.folder, ignored)) return show_row_of_run(o);
  if (!o.settings.empty())
    fail(ErrorKind::invalid_input, "--set: expected a run's configuration, a TOML file, in place of " + o.folder);
  const TokenShards shards = TokenShards::open(o.folder);
  if (o.check) shards.check();
  if (o.document) show_document(o, shards);
  else if (o.row) show_row(o, shards);
  else if (o.json) dump_documents(o, shards);
  else show_folder(o, shards);
  if (o.check) std::printf("every digest, count and token is as it should be\n");
}

void add_prepare(CLI::App& group) {
  const auto o = std::make_shared<PrepareOptions>();
  CLI::App* command = group.add_subcommand(
      "prepare", "Cleans, deduplicates, labels and tokenises texts as a TOML file says (docs/formats.md)");
  command->add_option("CONFIG", o->config, "TOML file")->required();
  command->add_option("--set", o->settings, "section.key=value, overrides the file; may be given several times")
      ->allow_extra_args(false);
  command->footer(
      "Interrupted, it goes on where it was when called again. The bytes it writes depend neither on that nor on "
      "threads.");
  command->callback([o] { run_prepare(*o); });
}

void add_inspect_prepared(CLI::App& group) {
  const auto o = std::make_shared<InspectOptions>();
  CLI::App* command =
      group.add_subcommand("inspect", "Shows prepared data: what it holds, a document, or a training row");
  command
      ->add_option("PREPARED", o->folder,
                   "folder that `data prepare` has completed; or the TOML file of a run, for a --row of its mixture")
      ->required();
  command->add_option("--set", o->settings, "section.key=value, overrides the run's TOML file; several times")
      ->allow_extra_args(false);
  command->add_option("--source", o->source, "source by its name; may be left out where there is one");
  CLI::Option* document =
      command->add_option("--document", o->document, "document of the source, from 0")->check(CLI::NonNegativeNumber);
  CLI::Option* row = command->add_option("--row", o->row, "training row of the source alone, or of the run, from 0")
                         ->check(CLI::NonNegativeNumber);
  CLI::Option* sequence = command->add_option("--sequence", o->sequence, "tokens of a training row");
  CLI::Option* seed = command->add_option("--seed", o->seed, "seed of the rows' order")->capture_default_str();
  row->excludes(document), sequence->needs(row), seed->needs(row);
  command->add_option("--tokenizer", o->tokenizer, "folder or tokenizer.json; default: the one it was prepared with");
  command->add_flag("--json", o->json, "every document as a line of JSON")->excludes(document)->excludes(row);
  command->add_flag("--check", o->check, "reads every byte: digests, counts, tokens within the vocabulary");
  command->callback([o] { run_inspect(*o); });
}

}  // namespace

void add_data(CLI::App& app) {
  CLI::App* group = app.add_subcommand("data", "Prepares training data, and shows it.")->require_subcommand(1);
  add_prepare(*group);
  add_inspect_prepared(*group);
}

}  // namespace fulgur
