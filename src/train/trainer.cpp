#include "train/trainer.h"

#include <cmath>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/progress.h"
#include "device/devices.h"
#include "device/transfer.h"
#include "files/atomic.h"
#include "files/digest.h"
#include "files/folder_lock.h"
#include "files/json_file.h"
#include "model/checkpoint.h"
#include "model/initialise.h"
#include "model/quantisation.h"
#include "train/checkpoint_writer.h"
#include "train/course_notes.h"
#include "train/run_course.h"
#include "train/run_log.h"
#include "train/train_rows.h"
#include "train/training_memory.h"
#include "train/validate.h"

namespace fulgur {
namespace {

constexpr double kLongSeconds = 120;  // a run that is still to take so long has its floor measured

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
  const ModelConfig config = parse_config(text, origin);
  refuse_int8_experts(config, origin, "are not trained");
  return config;
}

// The type that the model's weights are written in.
std::string with_stated_type(std::string text, DType type) {
  for (const char* key : {"torch_dtype", "dtype"})
    text = with_value(text, key, type == DType::bf16 ? "\"bfloat16\"" : "\"float32\"");
  return text;
}

// What results depend on, the model's configuration key by key.
RunIdentity identity_of(const RunConfig& run, const RunCorpus& corpus, const std::string& config_text) {
  nlohmann::ordered_json keys = nlohmann::ordered_json::parse(run.decisive);
  const nlohmann::ordered_json model = nlohmann::ordered_json::parse(config_text);
  for (const auto& [key, value] : model.items()) keys["model." + key] = value;
  return {keys.dump(), corpus.tokenizer_digest, corpus.data_digest, corpus.validation_digest};
}

void create_folder(const std::filesystem::path& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) fail(ErrorKind::not_found, dir.string() + ": cannot be created: " + error.message());
}

RunIdentity judged_identity(RunIdentity identity, const std::optional<RunCheckpoint>& from) {
  if (from) require_same(*from, identity);
  return identity;
}

// Everything a run holds while it goes on.
class Run {
 public:
  Run(const RunConfig& run, const TrainStart& start);
  TrainReport go();

 private:
  Exec exec() { return {stream_, scratch_, tape_, config_, run_.in_order()}; }
  TrainedTensors trained() const { return {memory_.state.master, memory_.state.first, memory_.state.second}; }
  bool stopped() const { return !alarm_.empty() || (stop_ && *stop_); }
  bool due(int64_t every) const {
    const int64_t step = memory_.state.step;
    return step == run_.steps || (every > 0 && step > 0 && step % every == 0);
  }
  std::optional<RunCheckpoint> judged_start(bool resume);
  void load(const RunCheckpoint& from);
  void start_afresh();
  void open_folder();
  void open_metrics();
  StepReport take_step();
  bool step_back(const StepReport& report, Progress& progress);
  void find_floor();
  void note(const StepReport& report, Progress& progress);
  void save_checkpoint();
  double validate(Progress& progress);
  void sample(Progress& progress);
  void save_trained_model();

  const RunConfig& run_;
  const std::atomic<bool>* stop_;
  Recorder* recorder_;
  std::function<double()> floor_;
  std::function<std::vector<std::string>(const ModelConfig&, const ModelWeights&)> sample_;
  std::filesystem::path dir_;
  std::optional<FolderLock> lock_;
  std::optional<RunCheckpoint> from_;
  RunCorpus corpus_;
  std::string config_text_;
  ModelConfig config_;
  RunIdentity identity_;
  MixedRows rows_;
  SpikeWatch watch_;
  CourseNotes notes_;
  TrainingMemory memory_;
  Stream stream_;
  Arena scratch_, tape_;
  std::optional<RunLog> metrics_;
  std::vector<double> losses_;
  std::string alarm_;  // that ends the run
  int64_t first_step_ = 0, saved_step_ = -1;
  int64_t steps_here_ = 0, tokens_here_ = 0;     // computed by this call, those gone back from included
  double seconds_before_ = 0;                    // of the run, before this call
  double step_seconds_ = 0, floor_seconds_ = 0;  // of all steps here; of one step at best, 0 where that is not known
  CheckpointWriter writer_;
};

Run::Run(const RunConfig& run, const TrainStart& start)
    : run_(run),
      stop_(start.stop),
      recorder_(start.recorder),
      floor_(start.floor),
      sample_(start.sample),
      dir_(run.run_dir),
      from_(judged_start(start.resume)),
      corpus_(read_run_corpus(run.tokenizer, run.train_files, run.validation_files)),
      config_text_(config_text(run, corpus_)),
      config_(judged_config(config_text_, run, corpus_)),
      identity_(judged_identity(identity_of(run, corpus_, config_text_), from_)),
      rows_(rows_of(run, corpus_)),
      watch_(run.spike, from_ ? from_->spikes : SpikeState{}),
      notes_(run, rows_, watch_, !corpus_.prepared.empty()),
      memory_(config_, run, run.validation_files.empty() ? 0 : validation_rows(corpus_.validation)),
      stream_(run.device, run.thread_count()),
      scratch_(memory_.scratch()),
      tape_(memory_.tape()),
      writer_(dir_, run, identity_, memory_.state.weights, memory_.snapshot_tensor()) {
  memory_.lend_to(stream_);
  if (from_) load(*from_);
  else start_afresh();
  first_step_ = memory_.state.step;
  open_folder();
}

void Run::load(const RunCheckpoint& from) {
  load_run_checkpoint(from, memory_.state.weights, trained());
  memory_.state.step = saved_step_ = from.step;
  round_master(stream_, memory_.state);
}

// The moments are zero already.
void Run::start_afresh() {
  ModelWeights master = views_of(config_, memory_.state.master);
  if (run_.model_path.empty()) initialise(config_, master, run_.seed, stream_.threads());
  else load_weights_into(master, config_, run_.model_path);
  memory_.state.step = 0, saved_step_ = -1;
  round_master(stream_, memory_.state);
}

// The newest checkpoint, where the run is to go on; nothing for a new folder.
std::optional<RunCheckpoint> Run::judged_start(bool resume) {
  std::error_code ignored;
  const bool exists = std::filesystem::exists(std::filesystem::symlink_status(dir_, ignored));
  if (resume) {
    if (exists) lock_.emplace(dir_);
    return open_run_checkpoint(dir_);
  }
  if (exists)
    fail(ErrorKind::invalid_input,
         "run.dir " + run_.run_dir + ": exists already; expected a new folder, or --resume to go on with its run");
  return std::nullopt;
}

// From here on the folder is changed.
void Run::open_folder() {
  if (from_) {
    remove_unfinished_checkpoints(dir_);
    for (const char* name : {"model", "run.toml", "metrics.jsonl"}) remove_leftovers(dir_ / name);
  } else {
    create_folder(dir_);
    lock_.emplace(dir_);
  }
  write_file(dir_ / "run.toml", run_.resolved);
  open_metrics();
  seconds_before_ = metrics_->seconds();
}

// Cut back to the steps taken, where there are any.
void Run::open_metrics() {
  const bool goes_on = std::filesystem::exists(dir_ / "metrics.jsonl");
  metrics_.reset();
  metrics_.emplace(dir_, run_, goes_on ? std::optional(memory_.state.step) : std::nullopt);
  losses_ = metrics_->losses();
  notes_.stand_at(memory_.state.step);
}

StepReport Run::take_step() {
  Exec e = exec();
  const double start = monotonic_seconds();
  const RecordedStep recorded(stream_, recorder_);
  tokens_here_ += run_.tokens_in(memory_.state.step + 1), ++steps_here_;
  try {
    const StepReport report = train_rows(e, memory_.state, run_, rows_, watch_);
    step_seconds_ += monotonic_seconds() - start;
    if (report.taken) watch_.note(report);
    return report;
  } catch (const Diverged& diverged) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    metrics_->alarm({memory_.state.step + 1, "not_finite", diverged.where(), nan, nan, diverged.what()});
    throw;
  }
}

// Leaves the rows of a step that was not taken out and goes back to where they begin. False where that is here. What
// came before a range that is left out already has been found good.
bool Run::step_back(const StepReport& report, Progress& progress) {
  const int64_t here = memory_.state.step;
  int64_t first = here + 1;
  while (first > 1 && here + 1 - first < run_.spike.rewind_steps &&
         !watch_.skipped_before(run_.rows_through(first - 1)))
    --first;
  const SkippedRows rows{.begin = watch_.row_at(run_.rows_through(first - 1)),
                         .end = watch_.row_at(run_.rows_through(here + 1) - 1) + 1,
                         .step = here + 1,
                         .loss = report.loss,
                         .gradient_norm = report.gradient_norm};
  const StepBounds bounds = watch_.bounds().value();
  watch_.skip(rows);
  if (first <= here) {
    writer_.finish();
    remove_checkpoints_after(dir_, first - 1);
    if (newest_checkpoint(dir_) >= 0) {
      const RunCheckpoint from = open_run_checkpoint(dir_);
      load(from), watch_.go_back(from.spikes);
    } else {
      clear(stream_, trained().first), clear(stream_, trained().second);
      start_afresh(), watch_.go_back({});
    }
    open_metrics();
  }
  progress.say(spike_line(rows, bounds, memory_.state.step));
  return first <= here;
}

// After the recorded step, and only where measuring the machine's rates is nothing beside the run.
void Run::find_floor() {
  const int64_t left = run_.steps - memory_.state.step;
  if (floor_ && steps_here_ == kRecordedStep && double(left) * step_seconds_ / double(steps_here_) > kLongSeconds)
    floor_seconds_ = floor_();
}

void Run::note(const StepReport& report, Progress& progress) {
  losses_.push_back(report.loss);
  const int64_t step = memory_.state.step;
  std::vector<std::pair<std::string, double>> line{{"step", double(step)},
                                                   {"loss", report.loss},
                                                   {"gradient_norm", report.gradient_norm},
                                                   {"lr", learning_rate(run_, step)},
                                                   {"tokens", double(run_.tokens_through(step))}};
  for (auto& field : notes_.note(step, progress)) line.push_back(std::move(field));
  line.emplace_back("tokens_per_second", double(tokens_here_) / progress.seconds());
  line.emplace_back("seconds", seconds_before_ + progress.seconds());
  line.emplace_back("time", double(std::time(nullptr)));
  add_metrics(line, report.router);
  if (report.health) add_metrics(line, *report.health), add_layer_metrics(line, report.router);
  const std::vector<Alarm> alarms = metrics_->write(line);
  for (const std::string& said : lines_by_rule(alarms)) progress.say(said);
  for (const Alarm& alarm : alarms)
    if (alarm.stops && alarm_.empty()) alarm_ = alarm.text;
  char note[64];
  const double share = floor_seconds_ * double(steps_here_) / step_seconds_;
  if (floor_seconds_ > 0) std::snprintf(note, sizeof note, "loss %.4f  %.0f %% of floor", report.loss, 100 * share);
  else std::snprintf(note, sizeof note, "loss %.4f", report.loss);
  progress.update(step, tokens_here_, note, run_.tokens_through(run_.steps) - run_.tokens_through(step));
}

// Nothing where this step is saved already.
void Run::save_checkpoint() {
  if (saved_step_ == memory_.state.step) return;
  metrics_->flush();
  writer_.save(stream_, trained(), saved_step_ = memory_.state.step, watch_.state());
}

// Bits per byte, noted; NaN without validation files, and when the run is stopped meanwhile.
double Run::validate(Progress& progress) {
  Exec e = exec();
  std::optional<double> bits;
  std::vector<double> parts;
  if (corpus_.validation.bytes > 0) bits = bits_per_byte(e, memory_.state.weights, corpus_.validation, stop_, &parts);
  if (!bits) return std::numeric_limits<double>::quiet_NaN();
  std::vector<std::pair<std::string, double>> line{{"step", double(memory_.state.step)},
                                                   {"validation_bits_per_byte", *bits}};
  const std::vector<std::string> names = part_names(corpus_.validation);
  char text[48];
  std::snprintf(text, sizeof text, "%.4f bits per byte", *bits);
  std::string said = "step " + std::to_string(memory_.state.step) + ": validation " + text;
  for (size_t i = 0; names.size() > 1 && i < names.size(); ++i) {
    line.emplace_back("validation_bits_per_byte/" + names[i], parts[i]);
    std::snprintf(text, sizeof text, " %.4f", parts[i]);
    said += (i ? ", " : " (") + names[i] + text + (i + 1 == names.size() ? ")" : "");
  }
  metrics_->write(line);
  progress.say(said);
  return *bits;
}

// What the weights make of the run's prompts. Where memory is short the run goes on without.
void Run::sample(Progress& progress) {
  std::vector<std::string> texts;
  stream_.synchronize();
  try {
    texts = sample_(config_, memory_.state.weights);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::out_of_memory) throw;
    progress.say("step " + std::to_string(memory_.state.step) + ": no samples: " + error.what());
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    metrics_->sample(memory_.state.step, run_.sample.prompts[i], texts[i]);
    std::string line = "step " + std::to_string(memory_.state.step) + ": " + run_.sample.prompts[i] + "|" + texts[i];
    for (char& c : line)
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    progress.say(line);
  }
}

void Run::save_trained_model() {
  AtomicFolder folder(dir_ / "model", Replace::yes);
  write_model(folder.path(), with_stated_type(config_text_, run_.dtype), memory_.state.weights, run_.dtype);
  const std::filesystem::path from = run_.tokenizer;
  const std::filesystem::path source = std::filesystem::is_directory(from) ? from : from.parent_path();
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt"})
    if (std::filesystem::exists(source / name)) write_file(folder.path() / name, read_text(source / name));
  folder.commit();
}

// A step's checkpoint comes before its validation, so a run that goes on from it validates there.
TrainReport Run::go() {
  Progress progress("step", run_.steps, "tokens", first_step_);
  progress.say(short_number(double(parameter_count(config_).total)) + " parameters, " +
               short_number(double(parameter_count(config_).active)) + " active; " +
               short_number(double(rows_.tokens_per_epoch())) + " training tokens");
  notes_.say_sources(progress);
  progress.say("on " + name_of(run_.device) + ": " + memory_.plan.describe());
  if (from_) progress.say("going on after step " + std::to_string(first_step_));
  TrainReport report;
  while (true) {
    report.tokens_per_second = double(tokens_here_) / progress.seconds();
    if (due(run_.save_every)) save_checkpoint();
    writer_.check();
    if (due(run_.validate_every) && !stopped()) report.bits_per_byte = validate(progress);
    if (sample_ && run_.sample.every > 0 && due(run_.sample.every) && !stopped()) sample(progress);
    if (memory_.state.step == run_.steps || stopped()) break;
    StepReport step = take_step();
    while (!step.taken && !step_back(step, progress)) step = take_step();
    if (!step.taken) continue;
    find_floor();
    note(step, progress);
  }
  report.stopped = stopped();
  save_checkpoint();
  writer_.finish();
  if (!alarm_.empty())
    fail(ErrorKind::invalid_input, alarm_ + ": stopped as alarm.stop says; step " + std::to_string(memory_.state.step) +
                                       " is saved, --resume goes on after it");
  if (!report.stopped) save_trained_model();
  Digest digest;
  for_bytes(stream_, trained().master, [&](std::span<const std::byte> bytes) { digest.add(bytes); });
  report.steps = memory_.state.step, report.steps_here = report.steps - first_step_, report.losses = losses_;
  report.model_dir = (dir_ / "model").string(), report.weights_digest = digest.text();
  return report;
}

}  // namespace

TrainReport train(const RunConfig& run, const TrainStart& start) { return Run(run, start).go(); }

}  // namespace fulgur
