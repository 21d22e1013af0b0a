#include "train/run_config.h"

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/threads.h"
#include "device/devices.h"
#include "files/toml_file.h"
#include "train/run_course.h"

namespace fulgur {
namespace {

nlohmann::ordered_json json_of(const toml::node& node, const std::string& key) {
  if (const auto* table = node.as_table()) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    for (const auto& [name, value] : *table)
      object[std::string(name.str())] = json_of(value, key + "." + std::string(name.str()));
    return object;
  }
  if (const auto* array = node.as_array()) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const toml::node& value : *array) list.push_back(json_of(value, key));
    return list;
  }
  if (const auto value = node.value_exact<std::string>()) return *value;
  if (const auto value = node.value_exact<int64_t>()) return *value;
  if (const auto value = node.value_exact<double>()) return *value;
  if (const auto value = node.value_exact<bool>()) return *value;
  fail(ErrorKind::invalid_input, key + ": dates and times are not understood");
}

// The values of one configuration: takes each known key once, with its default, and judges it.
class Reader {
 public:
  explicit Reader(toml::table& table) : table_(table) {}

  int64_t integer(const std::string& key, int64_t fallback, int64_t least,
                  int64_t most = std::numeric_limits<int64_t>::max()) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return put(key, fallback);
    const auto value = node.value_exact<int64_t>();
    if (!value || *value < least || *value > most)
      fail(ErrorKind::invalid_input,
           key + " = " + text(node) + ": expected an integer from " + std::to_string(least) +
               (most == std::numeric_limits<int64_t>::max() ? " on" : " to " + std::to_string(most)));
    return *value;
  }
  double number(const std::string& key, double fallback, double least, double most) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return put(key, fallback);
    const auto value = node.is_number() ? node.value<double>() : std::nullopt;
    if (!value || !(*value >= least && *value <= most)) {
      std::ostringstream range;
      range << key << " = " << text(node) << ": expected a number from " << least << " to " << most;
      fail(ErrorKind::invalid_input, range.str());
    }
    return *value;
  }
  std::string word(const std::string& key, const std::string& fallback, const std::vector<std::string>& allowed = {}) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return put(key, fallback);
    const auto value = node.value_exact<std::string>();
    if (!value) fail(ErrorKind::invalid_input, key + " = " + text(node) + ": expected a string");
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) {
      std::string list;
      for (const std::string& a : allowed) list += (list.empty() ? "" : ", ") + a;
      fail(ErrorKind::invalid_input, key + " = " + text(node) + ": expected one of " + list);
    }
    return *value;
  }
  bool flag(const std::string& key, bool fallback) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return put(key, fallback);
    const auto value = node.value_exact<bool>();
    if (!value) fail(ErrorKind::invalid_input, key + " = " + text(node) + ": expected true or false");
    return *value;
  }
  // A list of strings, of the allowed ones where some are named.
  std::vector<std::string> words(const std::string& key, const std::vector<std::string>& allowed = {}) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return {};
    std::vector<std::string> list;
    std::string names;
    for (const std::string& a : allowed) names += (names.empty() ? " of " : ", ") + a;
    const auto wrong = [&] { fail(ErrorKind::invalid_input, key + " = " + text(node) + ": expected a list" + names); };
    if (!node.is_array()) wrong();
    for (const toml::node& entry : *node.as_array()) {
      const auto value = entry.value_exact<std::string>();
      if (!value || (!allowed.empty() && std::find(allowed.begin(), allowed.end(), *value) == allowed.end())) wrong();
      list.push_back(*value);
    }
    return list;
  }
  std::vector<CorpusFile> files(const std::string& key, bool required) {
    const toml::node_view<toml::node> node = take(key);
    if (!node && !required) return {};
    std::vector<CorpusFile> list;
    if (const toml::array* array = node.as_array())
      for (const toml::node& entry : *array) list.push_back(file(key, entry));
    else if (const auto path = node.value_exact<std::string>()) list.push_back({*path});
    if (list.empty() && (required || !node.is_array()))
      fail(ErrorKind::invalid_input, key + ": expected a list of files");
    return list;
  }
  // The value of a key without a default; null where it is absent.
  nlohmann::ordered_json value(const std::string& key) {
    const toml::node_view<toml::node> node = take(key);
    return node ? json_of(*node.node(), key) : nlohmann::ordered_json();
  }
  // A number of steps, or of tokens by the key's other form. Says which it is; `tokens`: where neither key is there.
  bool counts_tokens(const std::string& key, bool tokens) {
    const bool by_tokens = bool(take(key + "_tokens"));
    if (by_tokens) refuse(key, key + "_tokens says the same in tokens; expected one of them");
    return by_tokens || (tokens && !take(key));
  }
  // A key that only one value is supported of so far.
  template <class T>
  void only(const std::string& key, T supported) {
    const toml::node_view<toml::node> node = take(key);
    if (!node) return void(put(key, supported));
    const auto value = node.value<T>();
    if (!value) fail(ErrorKind::invalid_input, key + " = " + text(node) + ": has the wrong type");
    std::ostringstream want;
    want << std::boolalpha << supported;
    if (*value != supported)
      fail(ErrorKind::unsupported, key + " = " + text(node) + ": only " + want.str() + " is supported so far");
  }
  // A key that the others' values leave no room for.
  void refuse(const std::string& key, const std::string& why) {
    if (take(key)) fail(ErrorKind::invalid_input, key + ": " + why);
  }
  toml::table* section(const std::string& name) {
    known_sections_.insert(name);
    return table_[name].as_table();
  }
  void refuse_unknown() const;

 private:
  static std::string text(const toml::node_view<toml::node>& node) {
    std::ostringstream out;
    if (node.node()) out << toml::node_view<const toml::node>(node.node());
    std::string line = out.str();
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line;
  }
  static CorpusFile file(const std::string& key, const toml::node& entry) {
    if (const auto path = entry.value_exact<std::string>()) return {*path};
    const toml::table* table = entry.as_table();
    const auto path = table ? (*table)["path"].value_exact<std::string>() : std::nullopt;
    if (!path || table->size() > 2 || (table->size() == 2 && !table->contains("weight")))
      fail(ErrorKind::invalid_input, key + ": expected file names or tables { path, weight }");
    const auto weight = table->contains("weight") ? (*table)["weight"].value<double>() : 1.0;
    if (!weight || *weight != std::floor(*weight) || *weight < 1 || *weight > 1000)
      fail(ErrorKind::invalid_input,
           key + ": " + *path + ": expected a whole weight from 1 to 1000, the passes over the file per epoch");
    return {*path, int64_t(*weight)};
  }
  toml::node_view<toml::node> take(const std::string& key) {
    known_.insert(key);
    return table_.at_path(key);
  }
  template <class T>
  T put(const std::string& key, T value) {
    const size_t dot = key.find('.');
    const std::string section = key.substr(0, dot);
    if (!table_.contains(section)) table_.insert(section, toml::table{});
    if (toml::table* into = table_[section].as_table()) into->insert_or_assign(key.substr(dot + 1), value);
    return value;
  }

  toml::table& table_;
  std::set<std::string> known_, known_sections_{"data", "train", "moe", "parallel", "run", "alarm", "sample"};
};

void Reader::refuse_unknown() const {
  for (const auto& [section, node] : table_) {
    const std::string name(section.str());
    const toml::table* table = node.as_table();
    if (!known_sections_.contains(name) || !table) {
      std::string list;
      for (const std::string& s : known_sections_) list += (list.empty() ? "" : ", ") + s;
      fail(ErrorKind::invalid_input,
           "unknown section or top-level key `" + name + "`: expected one of the sections " + list);
    }
    if (name == "model") continue;  // config.json's own names; its reader judges them
    for (const auto& [field, value] : *table) {
      const std::string key = name + "." + std::string(field.str());
      if (known_.contains(key)) continue;
      const auto nearest = std::min_element(
          known_.begin(), known_.end(),
          [&](const std::string& a, const std::string& b) { return edit_distance(key, a) < edit_distance(key, b); });
      fail(ErrorKind::invalid_input, "unknown key `" + key + "`: the nearest known one is `" + *nearest + "`");
    }
  }
}

toml::table parse_setting(const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0 || setting.find('.') > equals)
    fail(ErrorKind::invalid_input, "--set " + setting + ": expected section.key=value");
  const std::string key = setting.substr(0, equals), value = setting.substr(equals + 1);
  try {
    return toml::parse(key + " = " + value);
  } catch (const toml::parse_error&) {
    try {
      return toml::parse(key + " = " + nlohmann::json(value).dump());  // a bare word is a string
    } catch (const std::exception&) {
      fail(ErrorKind::invalid_input, "--set " + setting + ": expected section.key=value");
    }
  }
}

void override_with(toml::table& table, const toml::table& change) {
  for (const auto& [key, value] : change) {
    toml::table* into = table[key.str()].as_table();
    if (into && value.is_table()) override_with(*into, *value.as_table());
    else table.insert_or_assign(key.str(), value);
  }
}

toml::table parse_file(const std::filesystem::path& file) {
  if (!std::filesystem::is_regular_file(file))
    fail(ErrorKind::not_found, file.string() + ": no such configuration file");
  try {
    return toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    std::ostringstream where;
    where << file.string() << ":" << error.source().begin.line << ": " << error.description();
    std::string line = where.str();
    std::replace(line.begin(), line.end(), '\n', ' ');
    fail(ErrorKind::invalid_input, line);
  }
}

constexpr int64_t kMany = int64_t(1) << 40, kManyTokens = int64_t(1) << 50;

void read_schedule(Reader& r, RunConfig& run) {
  const std::map<std::string, Schedule> schedules{{"constant", Schedule::constant},
                                                  {"cosine", Schedule::cosine},
                                                  {"wsd", Schedule::wsd},
                                                  {"exponential", Schedule::exponential}};
  run.schedule = schedules.at(r.word("train.schedule", "cosine", {"constant", "cosine", "wsd", "exponential"}));
  run.warmup_in_tokens = r.counts_tokens("train.warmup", false);
  run.warmup = r.integer(run.warmup_in_tokens ? "train.warmup_tokens" : "train.warmup", 0, 0, kManyTokens);
  run.decay_in_tokens = r.counts_tokens("train.decay", run.warmup_in_tokens);
  run.decay = r.integer(run.decay_in_tokens ? "train.decay_tokens" : "train.decay", after_warm_up(run), 0, kManyTokens);
  if (run.schedule == Schedule::constant)
    r.refuse("train.final_lr", "the schedule constant has no other rate than train.lr");
  else run.final_lr = r.number("train.final_lr", run.schedule == Schedule::wsd ? 0 : run.lr / 10, 0, run.lr);
}

void read_train(Reader& r, RunConfig& run) {
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
void read_watch(Reader& r, RunConfig& run) {
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

void read_moe(Reader& r, RunConfig& run) {
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

std::string decisive_keys(const toml::table& table, const RunConfig& run) {
  nlohmann::ordered_json keys = nlohmann::ordered_json::object();
  for (const auto& [section, node] : table)
    for (const auto& [field, value] : *node.as_table()) {
      const std::string key = std::string(section.str()) + "." + std::string(field.str());
      if (key == "train.device" || key == "train.deterministic") continue;
      if (!is_free(key) && (section != "model" || key == "model.path")) keys[key] = json_of(value, key);
    }
  // Kinds of devices differ in their last bits, those of one kind do not; only CUDA has an order to choose.
  if (run.device.is_cuda()) keys["train.device"] = "cuda", keys["train.deterministic"] = run.deterministic;
  return keys.dump();
}

}  // namespace

RunConfig read_run_config(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  toml::table table = parse_file(file);
  for (const std::string& setting : settings) override_with(table, parse_setting(setting));
  Reader r(table);
  RunConfig run;
  toml::table* model = r.section("model");
  if (!model) fail(ErrorKind::invalid_input, file.string() + ": expected a section [model]");
  if (model->contains("path")) {
    run.model_path = r.word("model.path", "");
    if (model->size() > 1)
      fail(ErrorKind::invalid_input,
           "model.path: the model's own config.json holds; expected no further keys in [model]");
  } else {
    run.model_json = json_of(*model, "model").dump(1);
  }
  run.train_files = r.files("data.train", true), run.validation_files = r.files("data.validation", false);
  run.tokenizer = r.word("data.tokenizer", "");
  read_train(r, run);
  read_moe(r, run);
  read_watch(r, run);
  run.lanes = r.integer("parallel.lanes", 1, 1, 1 << 20);
  for (const char* key : {"segments", "slices", "dp", "tp", "pp", "cp", "ep", "etp"})
    r.only<int64_t>(std::string("parallel.") + key, 1);
  r.only<int64_t>("parallel.zero", 0);
  run.run_dir = r.word("run.dir", "");
  const nlohmann::ordered_json weights = r.value("data.weights"), stages = r.value("data.stage");
  r.refuse_unknown();
  judge_sizes(run);
  read_mixture(run, weights, stages);
  run.decisive = decisive_keys(table, run);
  std::ostringstream text;
  text << table << '\n';
  run.resolved = text.str();
  return run;
}

std::string keys_of(const std::filesystem::path& file) {
  nlohmann::ordered_json keys = nlohmann::ordered_json::object();
  for (const auto& [section, node] : parse_file(file)) {
    const std::string name(section.str());
    if (!node.is_table()) keys[name] = json_of(node, name);
    else
      for (const auto& [field, value] : *node.as_table())
        keys[name + "." + std::string(field.str())] = json_of(value, name);
  }
  return keys.dump();
}

int RunConfig::thread_count() const { return threads > 0 ? threads : available_cores(); }

}  // namespace fulgur
