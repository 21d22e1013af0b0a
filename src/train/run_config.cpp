#include "train/run_config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "device/devices.h"
#include "files/toml_file.h"
#include "train/run_course.h"

namespace fulgur {
namespace {

CorpusFile corpus_file(const std::string& key, const nlohmann::ordered_json& entry) {
  if (entry.is_string()) return {entry.get<std::string>()};
  const bool has_path = entry.is_object() && entry.contains("path") && entry["path"].is_string();
  if (!has_path || entry.size() > 2 || (entry.size() == 2 && !entry.contains("weight")))
    fail(ErrorKind::invalid_input, key + ": expected file names or tables { path, weight }");
  const std::string path = entry["path"].get<std::string>();
  const nlohmann::ordered_json weight = entry.value("weight", nlohmann::ordered_json(1));
  const double times = weight.is_number() ? weight.get<double>() : 0;
  if (times != std::floor(times) || times < 1 || times > 1000)
    fail(ErrorKind::invalid_input,
         key + ": " + path + ": expected a whole weight from 1 to 1000, the passes over the file per epoch");
  return {path, int64_t(times)};
}

std::vector<CorpusFile> read_files(TomlReader& r, const std::string& key, bool required) {
  const nlohmann::ordered_json value = r.value(key);
  std::vector<CorpusFile> files;
  if (value.is_string()) files.push_back({value.get<std::string>()});
  if (value.is_array())
    for (const nlohmann::ordered_json& entry : value) files.push_back(corpus_file(key, entry));
  if (files.empty() && (required || !(value.is_array() || value.is_null())))
    fail(ErrorKind::invalid_input, key + ": expected a list of files");
  return files;
}

// A number of steps, or of tokens by the key's other form. Says which it is; `tokens`: where neither key is there.
bool counts_tokens(TomlReader& r, const std::string& key, bool tokens) {
  const bool by_tokens = r.has(key + "_tokens");
  if (by_tokens) r.refuse(key, key + "_tokens says the same in tokens; expected one of them");
  return by_tokens || (tokens && !r.has(key));
}

constexpr int64_t kMany = int64_t(1) << 40, kManyTokens = int64_t(1) << 50;

void read_schedule(TomlReader& r, RunConfig& run) {
  const std::map<std::string, Schedule> schedules{{"constant", Schedule::constant},
                                                  {"cosine", Schedule::cosine},
                                                  {"wsd", Schedule::wsd},
                                                  {"exponential", Schedule::exponential}};
  run.schedule = schedules.at(r.word("train.schedule", "cosine", {"constant", "cosine", "wsd", "exponential"}));
  run.warmup_in_tokens = counts_tokens(r, "train.warmup", false);
  run.warmup = r.integer(run.warmup_in_tokens ? "train.warmup_tokens" : "train.warmup", 0, 0, kManyTokens);
  run.decay_in_tokens = counts_tokens(r, "train.decay", run.warmup_in_tokens);
  run.decay = r.integer(run.decay_in_tokens ? "train.decay_tokens" : "train.decay", after_warm_up(run), 0, kManyTokens);
  if (run.schedule == Schedule::constant)
    r.refuse("train.final_lr", "the schedule constant has no other rate than train.lr");
  else run.final_lr = r.number("train.final_lr", run.schedule == Schedule::wsd ? 0 : run.lr / 10, 0, run.lr);
}

void read_train(TomlReader& r, RunConfig& run) {
  run.steps = r.integer("train.steps", 0, 1, kMany);
  run.sequence = r.integer("train.sequence", 0, 2, int64_t(1) << 30);
  run.tokens_per_step = r.integer("train.tokens_per_step", 0, 1, int64_t(1) << 40);
  const nlohmann::ordered_json ramp = r.value("train.batch_ramp");
  if (run.tokens_per_step > 0) read_batch_ramp(run, ramp);
  if (double(run.steps) * double(run.largest_batch()) > double(kManyTokens))
    fail(ErrorKind::invalid_input,
         "train.steps = " + std::to_string(run.steps) + ": expected at most 2^50 tokens in all");
  run.micro_rows = r.integer("train.micro_rows", 1, 1, int64_t(1) << 30);
  run.lr = r.number("train.lr", 0, 0, 100);
  read_schedule(r, run);
  run.weight_decay = r.number("train.weight_decay", 0.1, 0, 100);
  run.beta1 = r.number("train.beta1", 0.9, 0, 0.999999), run.beta2 = r.number("train.beta2", 0.95, 0, 0.999999);
  run.eps = r.number("train.eps", 1e-8, 1e-30, 1), run.clip = r.number("train.clip", 1, 0, 1e30);
  run.seed = uint64_t(r.integer("train.seed", 0, 0));
  run.dtype = r.word("train.dtype", "f32", {"f32", "bf16"}) == "bf16" ? DType::bf16 : DType::f32;
  run.recompute = r.flag("train.recompute", false);
  run.threads = int(r.integer("train.threads", 0, 0, 4096));
  run.device = device_named("train.device", r.word("train.device", "auto"));
  run.deterministic = r.flag("train.deterministic", false);
  run.save_every = r.integer("train.save_every", 0, 0, kMany), run.keep = r.integer("train.keep", 2, 1, kMany);
  run.validate_every = r.integer("train.validate_every", 0, 0, kMany);
  read_spike_rule(run, r.value("train.spike"));
}

// What is written down of a run beside its training.
void read_watch(TomlReader& r, RunConfig& run) {
  run.health_every = r.integer("train.health_every", 0, 0, kMany);
  run.tensorboard = r.flag("run.tensorboard", true);
  run.alarm.rms = r.number("alarm.rms", 1e5, 0, 1e300), run.alarm.growth = r.number("alarm.growth", 20, 0, 1e300);
  run.alarm.gradient = r.number("alarm.gradient", 20, 0, 1e300);
  run.alarm.entropy = r.number("alarm.entropy", 0.05, 0, 1), run.alarm.idle = r.integer("alarm.idle", 20, 0, kMany);
  const std::vector<std::string> stop = r.words("alarm.stop", {"rms", "growth", "gradient", "entropy", "idle"});
  run.alarm.stop = {stop.begin(), stop.end()};
  if (!stop.empty() && run.keep < 2)
    fail(ErrorKind::invalid_input,
         "train.keep = 1: expected at least 2 with alarm.stop, so that the checkpoint before the alarm stays");
  run.sample = {.every = r.integer("sample.every", 0, 0, kMany),
                .prompts = r.words("sample.prompts"),
                .tokens = r.integer("sample.tokens", 64, 1, 1 << 20),
                .temperature = r.number("sample.temperature", 0.8, 0, 100)};
  if (run.sample.every > 0 && run.sample.prompts.empty())
    fail(ErrorKind::invalid_input, "sample.prompts: expected the texts to continue every " +
                                       std::to_string(run.sample.every) + " steps (sample.every)");
}

void read_moe(TomlReader& r, RunConfig& run) {
  run.capacity = r.number("moe.capacity", 0, 0, 100), run.window = r.integer("moe.window", 0, 0);
  const bool report = r.word("moe.aux_form", "report", {"report", "transformers"}) == "report";
  run.aux_form = report ? AuxForm::report : AuxForm::transformers;
  run.aux = r.number("moe.aux", report ? 0.01 : 0.001, 0, 1e6), run.z = r.number("moe.z", 0, 0, 1e6);
}

// What may change when a run goes on: no result depends on it.
bool is_free(const std::string& key) {
  constexpr std::string_view kFree[] = {
      "run.dir",    "run.tensorboard",      "train.threads",   "train.micro_rows",  "train.save_every",
      "train.keep", "train.validate_every", "train.recompute", "train.health_every"};
  return key.starts_with("alarm.") || key.starts_with("sample.") ||
         std::find(std::begin(kFree), std::end(kFree), key) != std::end(kFree);
}

std::string decisive_keys(const nlohmann::json& sections, const RunConfig& run) {
  nlohmann::ordered_json keys = nlohmann::ordered_json::object();
  for (const auto& [section, fields] : sections.items())
    for (const auto& [field, value] : fields.items()) {
      const std::string key = section + "." + field;
      if (key == "train.device" || key == "train.deterministic") continue;
      if (!is_free(key) && (section != "model" || key == "model.path")) keys[key] = value;
    }
  // Kinds of devices differ in their last bits, those of one kind do not; only CUDA has an order to choose.
  if (run.device.is_cuda()) keys["train.device"] = "cuda", keys["train.deterministic"] = run.deterministic;
  return keys.dump();
}

}  // namespace

RunConfig read_run_config(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  TomlReader r(file, settings);
  RunConfig run;
  const nlohmann::ordered_json model = r.value("model");  // config.json's own names; its reader judges them
  if (!model.is_object()) fail(ErrorKind::invalid_input, file.string() + ": expected a section [model]");
  if (model.contains("path")) {
    run.model_path = r.word("model.path", "");
    if (model.size() > 1)
      fail(ErrorKind::invalid_input,
           "model.path: the model's own config.json holds; expected no further keys in [model]");
  } else {
    run.model_json = model.dump(1);
  }
  run.train_files = read_files(r, "data.train", true), run.validation_files = read_files(r, "data.validation", false);
  run.tokenizer = r.word("data.tokenizer", "");
  read_train(r, run);
  read_moe(r, run);
  read_watch(r, run);
  run.lanes = r.integer("parallel.lanes", 1, 1, 1 << 20);
  for (const char* key : {"segments", "slices", "dp", "tp", "pp", "cp", "ep", "etp"})
    r.only(std::string("parallel.") + key, 1);
  r.only("parallel.zero", 0);
  run.run_dir = r.word("run.dir", "");
  const nlohmann::ordered_json weights = r.value("data.weights"), stages = r.value("data.stage");
  r.refuse_unknown();
  judge_sizes(run);
  read_mixture(run, weights, stages);
  run.decisive = decisive_keys(r.resolved(), run);
  run.resolved = r.resolved_text();
  return run;
}

std::string keys_of(const std::filesystem::path& file) {
  const TomlReader r(file, {});
  nlohmann::ordered_json keys = nlohmann::ordered_json::object();
  for (const auto& [section, fields] : r.resolved().items()) {
    if (!fields.is_object()) keys[section] = fields;
    else
      for (const auto& [field, value] : fields.items()) keys[section + "." + field] = value;
  }
  return keys.dump();
}

int RunConfig::thread_count() const { return threads > 0 ? threads : available_cores(); }

}  // namespace fulgur
