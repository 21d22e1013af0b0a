// fulgur eval: how good a model is.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/data_files.h"
#include "apps/run_options.h"
#include "base/progress.h"
#include "eval/perplexity.h"

namespace fulgur {
namespace {

struct EvalOptions {
  RunOptions run;
  std::vector<std::string> suites, data;
  int64_t parallel = 8, chunk = 512;
  bool json = false;
};

// Documents one after another, framed, so that only those that are being read take memory.
class Documents {
 public:
  Documents(std::vector<DataFile> files, const Tokenizer& tokenizer)
      : files_(std::move(files)), tokenizer_(tokenizer) {}

  std::optional<EvalDocument> next() {
    for (Document document; file_ < files_.size(); ++file_, stream_.reset()) {
      if (!stream_) stream_.emplace(files_[file_].path);
      if (!stream_->next(document)) continue;
      EvalDocument found = framed(tokenizer_, document.text);
      found.kind = files_[file_].kind_of(document);
      return found;
    }
    return std::nullopt;
  }

 private:
  const std::vector<DataFile> files_;
  const Tokenizer& tokenizer_;
  size_t file_ = 0;
  std::optional<DocumentStream> stream_;
};

struct Lengths {
  int64_t documents = 0, tokens = 0, longest = 0;
};

// What is to come, for the sizes and the progress: tokenising twice costs little beside the model.
Lengths lengths_of(Documents documents) {
  Lengths lengths;
  while (const auto document = documents.next()) {
    const auto tokens = int64_t(document->tokens.size());
    ++lengths.documents, lengths.tokens += tokens, lengths.longest = std::max(lengths.longest, tokens);
  }
  if (lengths.documents == 0) fail(ErrorKind::invalid_input, "--data: the files hold no document");
  if (lengths.longest < 2) fail(ErrorKind::invalid_input, "--data: the documents hold no token to foresee");
  return lengths;
}

// Pages for the longest document, and for ordinary ones as many as are read at once.
EngineOptions engine_options(const EvalOptions& o, const Lengths& lengths) {
  constexpr int64_t kOrdinary = 4096;
  const int64_t sequences = std::min(o.parallel, lengths.documents);
  return {.sequences = sequences,
          .tokens = std::max(lengths.longest, sequences * std::min(lengths.longest, kOrdinary)),
          .traces = true,
          .threads = o.run.thread_count(),
          .in_order = o.run.in_order(),
          .limits = {.rows = o.chunk, .chunk = o.chunk}};
}

void print_tables(const PerplexityReport& report) {
  if (report.kinds.size() > 1) {
    size_t width = 4;
    for (const auto& [kind, sum] : report.kinds) width = std::max(width, kind.size());
    std::printf("\n%-*s  documents       bytes      tokens  bits per byte  per token\n", int(width), "kind");
    for (const auto& [kind, sum] : report.kinds)
      std::printf("%-*s  %9lld  %10lld  %10lld  %13.4f  %9.3f\n", int(width), kind.c_str(),
                  static_cast<long long>(sum.documents), static_cast<long long>(sum.bytes),
                  static_cast<long long>(sum.tokens), sum.bits_per_byte(), sum.per_token());
  }
  if (report.positions.size() < 2) return;
  std::printf("\ntokens before        documents      tokens  nats per token  per token\n");
  for (const auto& [from, to, sum] : report.positions)
    std::printf("%8lld ..%9lld  %9lld  %10lld  %14.4f  %9.3f\n", static_cast<long long>(from),
                static_cast<long long>(to - 1), static_cast<long long>(sum.documents),
                static_cast<long long>(sum.tokens), sum.nats / double(sum.tokens), sum.per_token());
}

nlohmann::ordered_json json_of(const PerplexityReport& report, DType dtype, double seconds) {
  const auto json_of_sum = [](const Perplexity& p) {
    return nlohmann::ordered_json{{"bits_per_byte", p.bits_per_byte()},
                                  {"perplexity", p.per_token()},
                                  {"nats", p.nats},
                                  {"documents", p.documents},
                                  {"bytes", p.bytes},
                                  {"tokens", p.tokens}};
  };
  nlohmann::ordered_json json{{"suite", "perplexity"}};
  json.update(json_of_sum(report.all));
  json["kinds"] = nlohmann::ordered_json::array();
  for (const auto& [kind, sum] : report.kinds) {
    json["kinds"].push_back({{"kind", kind}});
    json["kinds"].back().update(json_of_sum(sum));
  }
  json["positions"] = nlohmann::ordered_json::array();
  for (const auto& [from, to, sum] : report.positions)
    json["positions"].push_back({{"from", from},
                                 {"to", to},
                                 {"documents", sum.documents},
                                 {"tokens", sum.tokens},
                                 {"nats", sum.nats},
                                 {"perplexity", sum.per_token()}});
  json["dtype"] = name_of(dtype), json["seconds"] = seconds;
  return json;
}

void run_perplexity(const EvalOptions& o) {
  if (o.data.empty()) fail(ErrorKind::invalid_input, "--suite perplexity: expected --data with texts");
  const Tokenizer tokenizer = Tokenizer::load(o.run.model);
  const Lengths lengths = lengths_of(Documents(data_files(o.data), tokenizer));
  const LoadedModel model = load_model(o.run, o.run.type(DType::f32));
  Engine engine(model.config, model.weights(), engine_options(o, lengths));
  Scheduler scheduler(engine);
  Documents documents(data_files(o.data), tokenizer);
  Progress progress("tokens", lengths.tokens, "tokens");
  PerplexityReport report;
  foresee(
      scheduler, [&] { return documents.next(); }, o.parallel,
      [&](const EvalDocument& document, std::span<const float> log_probs) { report.add(document, log_probs); },
      [&](int64_t read) {
        const Perplexity& all = report.all;
        const std::string note = std::to_string(all.documents) + "/" + std::to_string(lengths.documents) + " documents";
        progress.update(read, read, note);
      });
  if (o.json) {
    std::printf("%s\n", json_of(report, model.weights().flat.dtype, progress.seconds()).dump().c_str());
    return;
  }
  const Perplexity& all = report.all;
  std::printf("perplexity: %.4f bits per byte, %.3f per token (%lld documents, %lld bytes, %lld tokens)\n",
              all.bits_per_byte(), all.per_token(), static_cast<long long>(all.documents),
              static_cast<long long>(all.bytes), static_cast<long long>(all.tokens));
  print_tables(report);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Measures how good a model is");
  o->run.add_to(*command, "f32");
  command->add_option("--suite", o->suites, "perplexity: how well the texts of --data are foreseen")
      ->required()
      ->check(CLI::IsMember({"perplexity"}));
  command->add_option("--data", o->data, std::string("files of documents: ") + kDataHelp);
  command->add_option("--parallel", o->parallel, "documents that are read at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--chunk", o->chunk, "rows of a step; changes memory and speed, no figure")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document instead of lines");
  command->callback([o] { run_perplexity(*o); });
}

}  // namespace fulgur
