#include "train/trainer.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "files/atomic.h"
#include "files/digest.h"
#include "files/json_file.h"
#include "model/checkpoint.h"
#include "model/initialise.h"
#include "train/metrics.h"
#include "train/run_checkpoint.h"
#include "train/train_rows.h"
#include "train/training_memory.h"
#include "train/validate.h"

namespace fulgur {
namespace {

// The new model's config.json: [model], completed by what the tokenizer knows.
std::string config_text(const RunConfig& run, const RunCorpus& corpus) {
  if (!run.model_path.empty()) return read_text(std::filesystem::path(run.model_path) / "config.json");
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(run.model_json);
  const auto put = [&](const char* key, nlohmann::ordered_json value) {
    if (!config.contains(key)) config[key] = std::move(value);
  };
  put("architectures", {"MiniMaxText01ForCausalLM"}), put("model_type", "minimax_text_01"),
      put("torch_dtype", "float32");
  put("vocab_size", corpus.vocab_size), put("bos_token_id", corpus.begin_of_sentence);
  put("eos_token_id", {corpus.end_of_sentence, corpus.end_of_document});
  return config.dump(1) + "\n";
}

ModelConfig judged_config(const std::string& text, const RunConfig& run, const RunCorpus& corpus) {
  const std::string origin = run.model_path.empty() ? "[model]" : run.model_path;
  const nlohmann::ordered_json stated = parse_object(text, origin);
  const auto vocab = stated.find("vocab_size");
  if (vocab != stated.end() && vocab->is_number_integer() && vocab->get<int64_t>() < corpus.vocab_size)
    fail(ErrorKind::invalid_input, origin + ": vocab_size = " + vocab->dump() + ": expected at least the " +
                                       std::to_string(corpus.vocab_size) + " tokens of " + run.tokenizer);
  return parse_config(text, origin);
}

// The type that the model's weights are written in.
std::string with_stated_type(std::string text, DType type) {
  for (const char* key : {"torch_dtype", "dtype"})
    text = with_value(text, key, type == DType::bf16 ? "\"bfloat16\"" : "\"float32\"");
  return text;
}

// A folder that does not exist yet; `created` makes it.
std::filesystem::path new_folder(const std::string& run_dir) {
  const std::filesystem::path dir = run_dir;
  if (std::filesystem::exists(dir))
    fail(ErrorKind::invalid_input, "run.dir " + run_dir + ": exists already; expected a new folder");
  return dir;
}

std::filesystem::path created(const std::filesystem::path& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) fail(ErrorKind::not_found, dir.string() + ": cannot be created: " + error.message());
  return dir;
}

// Everything a run holds while it goes on.
class Run {
 public:
  explicit Run(const RunConfig& run);
  TrainReport go();

 private:
  Exec exec() { return {stream_, scratch_, tape_, config_}; }
  void note(const StepReport& report, int64_t tokens, Progress& progress);
  void save_checkpoint();
  void save_trained_model();
  double validate(Progress& progress);
  bool due(int64_t every) const {
    return every > 0 && memory_.state.step % every == 0 && memory_.state.step < run_.steps;
  }

  const RunConfig& run_;
  std::filesystem::path dir_;
  RunCorpus corpus_;
  std::string config_text_;
  ModelConfig config_;
  TrainingMemory memory_;
  Stream stream_;
  Arena scratch_, tape_;
  Metrics metrics_;
  std::vector<double> losses_;
};

Run::Run(const RunConfig& run)
    : run_(run),
      dir_(new_folder(run.run_dir)),
      corpus_(read_run_corpus(run.tokenizer, run.train_files, run.validation_files)),
      config_text_(config_text(run, corpus_)),
      config_(judged_config(config_text_, run, corpus_)),
      memory_(config_, run, run.validation_files.empty() ? 0 : validation_rows(corpus_.validation)),
      stream_({}, run.thread_count()),
      scratch_(memory_.scratch()),
      tape_(memory_.tape()),
      metrics_(created(dir_) / "metrics.jsonl") {
  if (run.model_path.empty()) {
    ModelWeights master = views_of(config_, memory_.state.master);
    initialise(config_, master, run.seed, stream_.threads());
  } else {
    const LoadedWeights loaded = load_weights(config_, run.model_path, DType::f32);
    copy(stream_, memory_.state.master, loaded.weights.flat);
  }
  round_master(stream_, memory_.state);
  write_file(dir_ / "run.toml", run.resolved);
}

void Run::note(const StepReport& report, int64_t tokens, Progress& progress) {
  losses_.push_back(report.loss);
  const int64_t step = memory_.state.step;
  std::vector<std::pair<std::string, double>> line{{"step", double(step)},
                                                   {"loss", report.loss},
                                                   {"gradient_norm", report.gradient_norm},
                                                   {"lr", learning_rate(run_, step)},
                                                   {"tokens", double(tokens)},
                                                   {"tokens_per_second", double(tokens) / progress.seconds()}};
  add_metrics(line, report.router);
  metrics_.write(line);
  char note[64];
  std::snprintf(note, sizeof note, "loss %.4f", report.loss);
  progress.update(step, tokens, note);
}

double Run::validate(Progress& progress) {
  if (corpus_.validation.bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  Exec e = exec();
  const double bits = bits_per_byte(e, memory_.state.weights, corpus_.validation);
  metrics_.write({{"step", double(memory_.state.step)}, {"validation_bits_per_byte", bits}});
  char line[80];
  std::snprintf(line, sizeof line, "step %lld: validation %.4f bits per byte",
                static_cast<long long>(memory_.state.step), bits);
  progress.say(line);
  return bits;
}

void Run::save_checkpoint() {
  save_run_checkpoint(dir_, run_, memory_.state,
                      {digest_of(run_.resolved), corpus_.tokenizer_digest, corpus_.data_digest});
}

void Run::save_trained_model() {
  AtomicFolder folder(dir_ / "model", Replace::yes);
  write_model(folder.path(), with_stated_type(config_text_, run_.dtype), memory_.state.weights, run_.dtype);
  const std::filesystem::path from = run_.tokenizer;
  const std::filesystem::path source = std::filesystem::is_directory(from) ? from : from.parent_path();
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"})
    if (std::filesystem::exists(source / name)) std::filesystem::copy_file(source / name, folder.path() / name);
  folder.commit();
}

TrainReport Run::go() {
  PackedRows rows(corpus_.training.documents, run_.sequence, run_.seed);
  Progress progress("step", run_.steps, "tokens");
  progress.say(short_number(double(parameter_count(config_).total)) + " parameters, " +
               short_number(double(parameter_count(config_).active)) + " active; " +
               short_number(double(rows.tokens_per_epoch())) + " training tokens");
  progress.say(memory_.plan.describe());
  Exec e = exec();
  int64_t tokens = 0;
  while (memory_.state.step < run_.steps) {
    const StepReport report = train_rows(e, memory_.state, run_, rows);
    note(report, tokens += run_.tokens_per_step, progress);
    if (due(run_.validate_every)) validate(progress);
    if (due(run_.save_every)) save_checkpoint();
  }
  const double rate = double(tokens) / progress.seconds(), bits = validate(progress);
  save_checkpoint();
  save_trained_model();
  const Tensor flat = memory_.state.master;
  return {.steps = memory_.state.step,
          .losses = losses_,
          .bits_per_byte = bits,
          .tokens_per_second = rate,
          .model_dir = (dir_ / "model").string(),
          .weights_digest = digest_of(std::span(flat.data, size_t(flat.bytes())))};
}

}  // namespace

TrainReport train(const RunConfig& run) { return Run(run).go(); }

}  // namespace fulgur
