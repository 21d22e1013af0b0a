#include "train/run_course.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "base/grid.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void wrong(const std::string& what) { fail(ErrorKind::invalid_input, what); }

std::string element(const std::string& key, size_t i) { return key + "[" + std::to_string(i) + "]"; }

// A table of the configuration whose fields are all among `fields`.
const Json& judged_table(const Json& table, const std::string& key, const std::vector<std::string>& fields) {
  std::string list;
  for (const std::string& field : fields) list += (list.empty() ? "" : ", ") + field;
  if (!table.is_object()) wrong(key + " = " + table.dump() + ": expected a table of " + list);
  for (const auto& [field, value] : table.items())
    if (std::find(fields.begin(), fields.end(), field) == fields.end())
      wrong("unknown key `" + key + "." + field + "`: expected " + list);
  return table;
}

int64_t whole_number(const Json& table, const std::string& key, const std::string& field, int64_t least) {
  const auto found = table.find(field);
  if (found == table.end()) wrong(key + "." + field + ": is missing");
  if (!found->is_number_integer() || found->get<int64_t>() < least)
    wrong(key + "." + field + " = " + found->dump() + ": expected an integer from " + std::to_string(least) + " on");
  return found->get<int64_t>();
}

const Json& judged_list(const Json& list, const std::string& key) {
  if (!list.is_array()) wrong(key + " = " + list.dump() + ": expected a list of tables");
  return list;
}

// The first step that begins when so many tokens are trained on.
int64_t step_at(const RunConfig& run, int64_t tokens) {
  int64_t before = 0, first = 1, each = run.tokens_per_step;
  for (const BatchRamp& next : run.batch_ramp) {
    const int64_t through = before + (next.first_step - first) * each;
    if (through >= tokens) break;
    before = through, first = next.first_step, each = next.tokens_per_step;
  }
  return tokens <= before || each < 1 ? first : first + (tokens - before + each - 1) / each;
}

// The one of from_step and from_tokens that a table has, by its name.
std::string beginning_of(const Json& table, const std::string& key) {
  const bool step = table.contains("from_step"), tokens = table.contains("from_tokens");
  if (step == tokens) wrong(key + ": expected one of from_step and from_tokens");
  return step ? "from_step" : "from_tokens";
}

std::map<std::string, double> read_weights(const Json& table, const std::string& key) {
  if (!table.is_object()) wrong(key + " = " + table.dump() + ": expected a table of sources and their weights");
  std::map<std::string, double> weights;
  double sum = 0;
  for (const auto& [name, value] : table.items()) {
    const double weight = value.is_number() ? value.get<double>() : -1;
    if (!(weight >= 0 && std::isfinite(weight)))
      wrong(key + "." + name + " = " + value.dump() + ": expected a weight from 0 on");
    sum += weights[name] = weight;
  }
  if (sum <= 0 || !std::isfinite(sum)) wrong(key + ": expected a weight above 0");
  return weights;
}

std::vector<double> weights_of(const std::map<std::string, double>& named, const std::string& key,
                               const std::vector<TrainingSource>& sources) {
  std::vector<double> weights;
  std::string names;
  for (const TrainingSource& source : sources) {
    names += (names.empty() ? "" : ", ") + source.name;
    const auto found = named.find(source.name);
    if (found == named.end())
      wrong(key + ": expected a weight for the source " + source.name + ", 0 where it is to stay out");
    weights.push_back(found->second);
  }
  for (const auto& [name, weight] : named)
    if (std::none_of(sources.begin(), sources.end(), [&](const TrainingSource& s) { return s.name == name; }))
      wrong(key + "." + name + ": no such source; data.train has " + names);
  return weights;
}

// Where the configuration names no weights: those of the prepared data.
std::vector<double> own_weights(const RunConfig& run, const std::vector<TrainingSource>& sources) {
  std::vector<double> weights;
  for (const TrainingSource& source : sources) weights.push_back(source.weight);
  if (sources.size() > 1 && run.train_files.size() > 1)
    wrong("data.weights: expected a weight for each source, since data.train is more than one folder");
  return weights;
}

// A number of tokens, where the schedule counts them, or of steps.
int64_t place(const RunConfig& run, bool in_tokens, int64_t step) {
  return in_tokens ? run.tokens_through(step) : step;
}

// Where the decay's count stands when the warm-up is over.
int64_t warmed_up(const RunConfig& run) {
  if (run.decay_in_tokens == run.warmup_in_tokens) return run.warmup;
  if (run.decay_in_tokens) return run.tokens_through(run.warmup);
  return step_at(run, run.warmup) - 1;
}

// `key`: of the tokens of a step.
void judge_batch(const RunConfig& run, const std::string& key, int64_t tokens) {
  const auto wrong = [](const std::string& what) { fail(ErrorKind::invalid_input, what); };
  if (tokens < 1 || tokens % run.sequence != 0)
    wrong(key + " = " + std::to_string(tokens) +
          ": expected a multiple of train.sequence = " + std::to_string(run.sequence));
  const int64_t rows = tokens / run.sequence;
  if (rows % (run.lanes * run.micro_rows) != 0)
    wrong("train.micro_rows = " + std::to_string(run.micro_rows) + ": expected a divisor of the " +
          std::to_string(rows / run.lanes) + " rows of a lane");
}

}  // namespace

void read_batch_ramp(RunConfig& run, const Json& ramp) {
  if (ramp.is_null()) return;
  const std::string key = "train.batch_ramp";
  for (size_t i = 0; i < judged_list(ramp, key).size(); ++i) {
    const std::string here = element(key, i);
    const Json& table = judged_table(ramp[i], here, {"from_step", "from_tokens", "tokens_per_step"});
    const std::string from = beginning_of(table, here);
    int64_t first = whole_number(table, here, from, from == "from_step" ? 1 : 0);
    if (from == "from_tokens") first = step_at(run, first);
    if (!run.batch_ramp.empty() && first <= run.batch_ramp.back().first_step)
      wrong(here + "." + from + ": begins at step " + std::to_string(first) + ", expected one after step " +
            std::to_string(run.batch_ramp.back().first_step) + ", where the batch before begins");
    run.batch_ramp.push_back({first, whole_number(table, here, "tokens_per_step", 1)});
  }
}

void read_mixture(RunConfig& run, const Json& weights, const Json& stages) {
  if (!weights.is_null()) run.weights = read_weights(weights, "data.weights");
  if (stages.is_null()) return;
  const std::string key = "data.stage";
  for (size_t i = 0; i < judged_list(stages, key).size(); ++i) {
    const std::string here = element(key, i);
    const Json& table = judged_table(stages[i], here, {"from_step", "from_tokens", "weights"});
    const std::string from = beginning_of(table, here);
    const int64_t at = whole_number(table, here, from, from == "from_step" ? 1 : 0);
    const int64_t tokens = from == "from_step" ? run.tokens_through(at - 1) : at;
    const int64_t row = tokens / run.sequence + (tokens % run.sequence != 0);
    if (!run.stages.empty() && row <= run.stages.back().first_row)
      wrong(here + "." + from + " = " + std::to_string(at) + ": expected a stage that begins after the one before");
    if (!table.contains("weights")) wrong(here + ".weights: is missing");
    run.stages.push_back({row, read_weights(table["weights"], here + ".weights")});
  }
}

void read_spike_rule(RunConfig& run, const Json& rule) {
  if (rule.is_null()) return;
  const std::string key = "train.spike";
  judged_table(rule, key, {"window", "sigma", "rewind_steps", "max"});
  run.spike.window = whole_number(rule, key, "window", 2);
  run.spike.rewind_steps = whole_number(rule, key, "rewind_steps", 0);
  run.spike.max = whole_number(rule, key, "max", 1);
  const auto sigma = rule.find("sigma");
  if (sigma == rule.end()) wrong(key + ".sigma: is missing");
  run.spike.sigma = sigma->is_number() ? sigma->get<double>() : 0;
  if (!(run.spike.sigma > 0)) wrong(key + ".sigma = " + sigma->dump() + ": expected a number above 0");
  if (run.spike.rewind_steps > run.save_every * (run.keep - 1))
    wrong(key + ".rewind_steps = " + std::to_string(run.spike.rewind_steps) +
          ": the checkpoints kept go back train.save_every * (train.keep - 1) = " +
          std::to_string(run.save_every * (run.keep - 1)) + " steps; expected at least as many");
}

std::vector<MixtureStage> mixture_stages(const RunConfig& run, const std::vector<TrainingSource>& sources) {
  std::vector<MixtureStage> stages;
  if (run.stages.empty() || run.stages.front().first_row > 0)
    stages.push_back(
        {0, run.weights.empty() ? own_weights(run, sources) : weights_of(run.weights, "data.weights", sources)});
  else if (!run.weights.empty())
    wrong("data.weights: data.stage[0] begins where the run does; expected no other weights");
  for (size_t i = 0; i < run.stages.size(); ++i)
    stages.push_back(
        {run.stages[i].first_row, weights_of(run.stages[i].weights, element("data.stage", i) + ".weights", sources)});
  return stages;
}

MixedRows rows_of(const RunConfig& run, const RunCorpus& corpus) {
  const std::vector<TrainingSource> sources = training_sources(corpus);
  return {sources, mixture_stages(run, sources), run.sequence, run.seed, corpus.vocab_size};
}

int64_t after_warm_up(const RunConfig& run) {
  return std::max<int64_t>(place(run, run.decay_in_tokens, run.steps) - warmed_up(run), 0);
}

int64_t RunConfig::tokens_in(int64_t step) const {
  int64_t tokens = tokens_per_step;
  for (const BatchRamp& next : batch_ramp)
    if (step >= next.first_step) tokens = next.tokens_per_step;
  return tokens;
}

int64_t RunConfig::tokens_through(int64_t step) const {
  int64_t tokens = 0, first = 1, each = tokens_per_step;
  for (const BatchRamp& next : batch_ramp) {
    if (next.first_step > step) break;
    tokens += (next.first_step - first) * each;
    first = next.first_step, each = next.tokens_per_step;
  }
  return tokens + (step - first + 1) * each;
}

int64_t RunConfig::largest_batch() const {
  int64_t tokens = tokens_in(1);
  for (const BatchRamp& next : batch_ramp)
    if (next.first_step <= steps) tokens = std::max(tokens, next.tokens_per_step);
  return tokens;
}

double learning_rate(const RunConfig& run, int64_t step) {
  const int64_t warm = place(run, run.warmup_in_tokens, step), at = place(run, run.decay_in_tokens, step);
  if (warm <= run.warmup) return run.lr * double(warm) / double(run.warmup);
  if (run.schedule == Schedule::cosine && run.decay > 0) {
    const double done = std::min(1.0, double(at - warmed_up(run)) / double(run.decay));
    const double share = run.final_lr / run.lr;
    return run.lr * (share + (1 - share) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
  }
  const int64_t left = place(run, run.decay_in_tokens, run.steps) - at;
  if (left >= run.decay) return run.lr;
  const int64_t one = run.decay_in_tokens ? run.tokens_in(step) : 1;
  if (run.schedule == Schedule::wsd)
    return run.final_lr + (run.lr - run.final_lr) * double(left + one) / double(run.decay + one);
  if (run.schedule == Schedule::exponential)
    return run.lr * std::pow(run.final_lr / run.lr, double(run.decay - left) / double(run.decay));
  return run.lr;
}

void judge_sizes(const RunConfig& run) {
  const auto wrong = [](const std::string& what) { fail(ErrorKind::invalid_input, what); };
  if (run.steps < 1) wrong("train.steps: expected the number of steps");
  if (run.sequence < 2) wrong("train.sequence: expected the tokens of a packed row");
  if (run.dtype == DType::bf16 && run.sequence % kGrid != 0)
    wrong("train.sequence = " + std::to_string(run.sequence) + ": expected a multiple of 64 where train.dtype is bf16");
  if (run.lr <= 0) wrong("train.lr: expected a learning rate above 0");
  if (run.schedule == Schedule::exponential && run.final_lr <= 0)
    wrong("train.final_lr: expected a rate above 0, where an exponential decay ends");
  if (run.schedule == Schedule::exponential && run.decay > after_warm_up(run))
    wrong((run.decay_in_tokens ? "train.decay_tokens = " : "train.decay = ") + std::to_string(run.decay) +
          ": expected at most the " + std::to_string(after_warm_up(run)) +
          (run.decay_in_tokens ? " tokens" : " steps") + " after the warm-up");
  if (run.lanes & (run.lanes - 1)) wrong("parallel.lanes = " + std::to_string(run.lanes) + ": expected a power of two");
  judge_batch(run, "train.tokens_per_step", run.tokens_per_step);
  for (size_t i = 0; i < run.batch_ramp.size(); ++i)
    judge_batch(run, "train.batch_ramp[" + std::to_string(i) + "].tokens_per_step", run.batch_ramp[i].tokens_per_step);
  if (run.window != 0 && (run.micro_rows * run.sequence) % run.window != 0)
    wrong("moe.window = " + std::to_string(run.window) + ": expected a divisor of the " +
          std::to_string(run.micro_rows * run.sequence) + " tokens of a micro-batch");
  if (run.run_dir.empty()) wrong("run.dir: expected the folder of the run");
  if (run.tokenizer.empty()) wrong("data.tokenizer: expected the folder of a tokenizer");
}

}  // namespace fulgur
