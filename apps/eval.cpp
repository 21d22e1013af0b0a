// fulgur eval: how good a model is.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/run_options.h"
#include "base/progress.h"
#include "data/documents.h"
#include "eval/perplexity.h"

namespace fulgur {
namespace {

struct EvalOptions {
  RunOptions run;
  std::vector<std::string> suites, data;
  int64_t parallel = 8, chunk = 512;
  bool json = false;
};

std::vector<EvalDocument> documents_of(const EvalOptions& o, const Tokenizer& tokenizer) {
  std::vector<EvalDocument> documents;
  for (const std::string& file : o.data)
    for (const std::string& document : read_documents(file)) documents.push_back(framed(tokenizer, document));
  if (documents.empty()) fail(ErrorKind::invalid_input, "--data: the files hold no document");
  return documents;
}

EngineOptions engine_options(const EvalOptions& o, const std::vector<EvalDocument>& documents) {
  size_t longest = 0;
  for (const EvalDocument& document : documents) longest = std::max(longest, document.tokens.size());
  const int64_t sequences = std::min(o.parallel, int64_t(documents.size()));
  return {.sequences = sequences,
          .tokens = sequences * int64_t(longest),
          .traces = true,
          .threads = o.run.thread_count(),
          .limits = {.rows = o.chunk, .chunk = o.chunk}};
}

void run_perplexity(const EvalOptions& o) {
  if (o.data.empty()) fail(ErrorKind::invalid_input, "--suite perplexity: expected --data with texts");
  const Tokenizer tokenizer = Tokenizer::load(o.run.model);
  const std::vector<EvalDocument> documents = documents_of(o, tokenizer);
  const LoadedModel model = load_model(o.run, o.run.type(DType::f32));
  Engine engine(model.config, model.weights(), engine_options(o, documents));
  Scheduler scheduler(engine);
  Progress progress("documents", int64_t(documents.size()), "tokens");
  const Perplexity p = perplexity(scheduler, documents, o.parallel,
                                  [&](int64_t done, int64_t tokens) { progress.update(done, tokens); });
  if (!o.json) {
    std::printf("perplexity: %.4f bits per byte, %.3f per token (%lld documents, %lld bytes, %lld tokens)\n",
                p.bits_per_byte(), p.per_token(), static_cast<long long>(p.documents), static_cast<long long>(p.bytes),
                static_cast<long long>(p.tokens));
    return;
  }
  const nlohmann::ordered_json report{{"suite", "perplexity"},        {"bits_per_byte", p.bits_per_byte()},
                                      {"perplexity", p.per_token()},  {"nats", p.nats},
                                      {"documents", p.documents},     {"bytes", p.bytes},
                                      {"tokens", p.tokens},           {"dtype", name_of(model.weights().flat.dtype)},
                                      {"seconds", progress.seconds()}};
  std::printf("%s\n", report.dump().c_str());
}

}  // namespace

void add_eval(CLI::App& app) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Measures how good a model is");
  o->run.add_to(*command, "f32");
  command->add_option("--suite", o->suites, "perplexity: how well the texts of --data are foreseen")
      ->required()
      ->check(CLI::IsMember({"perplexity"}));
  command->add_option("--data", o->data,
                      "files of documents: .txt, divided by lines <|endoftext|>, or .jsonl with `text`");
  command->add_option("--parallel", o->parallel, "documents that are read at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--chunk", o->chunk, "rows of a step; changes memory and speed, no figure")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document instead of a line");
  command->callback([o] { run_perplexity(*o); });
}

}  // namespace fulgur
