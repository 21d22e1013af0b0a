#include "apps/model_scorer.h"

#include <algorithm>
#include <filesystem>
#include <numbers>
#include <numeric>
#include <optional>

#include "apps/run_options.h"
#include "eval/perplexity.h"
#include "files/digest.h"

namespace fulgur {
namespace {

constexpr int64_t kParallel = 8;

RunOptions run_options(const std::string& model, int threads) {
  RunOptions options;
  options.model = model, options.threads = threads, options.device = "cpu";
  return options;
}

// Of every file of the folder that a score depends on.
std::string digest_of_model(const std::filesystem::path& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename(), extension = entry.path().extension();
    if (entry.is_regular_file() && (extension == ".json" || extension == ".safetensors" || extension == ".txt"))
      lines.push_back(name + " " + digest_of_file(entry.path()) + "\n");
  }
  std::sort(lines.begin(), lines.end());
  std::string text = "bits per byte\n";
  for (const std::string& line : lines) text += line;
  return digest_of(text);
}

class ModelScorer : public Scorer {
 public:
  ModelScorer(const std::string& model, int64_t longest, int threads)
      : digest_(digest_of_model(model)),
        tokenizer_(Tokenizer::load(model)),
        model_(load_model(run_options(model, threads), DType::f32)),
        engine_(model_.config, model_.weights(),
                {.sequences = kParallel,
                 .tokens = kParallel * (longest + 2),  // a token has a byte or more
                 .traces = true,
                 .threads = threads,
                 .limits = {.rows = 512, .chunk = 512}}),
        scheduler_(engine_) {}

  std::string digest() const override { return digest_; }

  std::vector<double> score(std::span<const std::string_view> texts,
                            const std::function<void(int64_t)>& done) override {
    std::vector<double> scores;
    while (!texts.empty()) {
      const auto some = texts.first(std::min<size_t>(texts.size(), 16 * kParallel));
      size_t next = 0;
      const auto framed_next = [&]() -> std::optional<EvalDocument> {
        if (next == some.size()) return {};
        return framed(tokenizer_, std::string(some[next++]));
      };
      int64_t bytes = 0;
      const auto note = [&](const EvalDocument& document, std::span<const float> log_probs) {
        const double nats = -std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
        scores.push_back(nats / std::numbers::ln2 / double(document.bytes));
        bytes += document.bytes;
      };
      foresee(scheduler_, framed_next, kParallel, note, [](int64_t) {});
      done(bytes);
      texts = texts.subspan(some.size());
    }
    return scores;
  }

 private:
  const std::string digest_;
  const Tokenizer tokenizer_;
  const LoadedModel model_;
  Engine engine_;
  Scheduler scheduler_;
};

}  // namespace

std::unique_ptr<Scorer> make_model_scorer(const std::string& model, int64_t longest, int threads) {
  return std::make_unique<ModelScorer>(model, longest, threads);
}

}  // namespace fulgur
