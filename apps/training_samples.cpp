#include "apps/training_samples.h"

#include "apps/sampling_options.h"
#include "generate/completions.h"

namespace fulgur {
namespace {

// As training frames a document.
std::vector<int32_t> document_start(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> tokens = tokenizer.encode(prompt, SpecialTokens::as_text);
  if (const auto begin = tokenizer.id_of("<beginning_of_sentence>")) tokens.insert(tokens.begin(), *begin);
  return tokens;
}

std::vector<std::string> continued(const RunConfig& run, const std::atomic<bool>& stop, const ModelConfig& config,
                                   const ModelWeights& weights) {
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer);
  std::vector<CompletionRequest> requests;
  int64_t tokens = 0;
  for (const std::string& prompt : run.sample.prompts) {
    requests.push_back({.prompt = document_start(tokenizer, prompt),
                        .max_tokens = run.sample.tokens,
                        .sampling = {.temperature = float(run.sample.temperature), .seed = run.seed},
                        .stop_ids = stop_ids_of(config.eos_token_ids)});
    tokens += int64_t(requests.back().prompt.size()) + run.sample.tokens;
  }
  Engine engine(config, weights,
                {.sequences = int64_t(requests.size()),
                 .tokens = tokens,
                 .threads = run.thread_count(),
                 .in_order = run.in_order()});
  Scheduler scheduler(engine);
  Completions completions(scheduler, tokenizer);
  std::vector<CompletionId> ids;
  for (CompletionRequest& request : requests) ids.push_back(completions.start(std::move(request)));
  while (!completions.idle() && !stop) completions.step();
  std::vector<std::string> texts;
  if (!completions.idle()) return texts;
  for (const CompletionId id : ids) texts.push_back(completions.take(id)[0].text);
  return texts;
}

}  // namespace

std::function<std::vector<std::string>(const ModelConfig&, const ModelWeights&)> training_samples(
    const RunConfig& run, const std::atomic<bool>& stop) {
  return [&run, &stop](const ModelConfig& config, const ModelWeights& weights) {
    return continued(run, stop, config, weights);
  };
}

}  // namespace fulgur
