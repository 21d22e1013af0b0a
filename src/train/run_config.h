// RunConfig: what a training run's TOML file says (docs/formats.md). Every key is judged; an unknown one is refused
// with the nearest known name.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "data/corpus.h"

namespace fulgur {

enum class Schedule : uint8_t { constant, cosine, wsd, exponential };
enum class AuxForm : uint8_t { report, transformers };  // of the auxiliary loss (ops/load_balance.h)

// From a step on, the tokens of each step.
struct BatchRamp {
  int64_t first_step, tokens_per_step;
};

// From a row on, the weight of each source by its name.
struct DataStage {
  int64_t first_row;
  std::map<std::string, double> weights;
};

// A step whose loss or gradient norm is above the mean of the last `window` steps by `sigma` standard deviations, or
// not finite, is not taken: its rows and those of the `rewind_steps` before it, back to rows left out already, are left
// out, and the run goes back to where they begin.
struct SpikeRule {
  int64_t window = 0;  // 0: none
  double sigma = 0;
  int64_t rewind_steps = 0;
  int64_t max = 0;  // steps of a run that are not taken
};

// When a figure of a step is an alarm (train/alarms.h); 0 turns a rule off.
struct AlarmRules {
  double rms = 0;              // of rows and lightning states: above
  double growth = 0;           // of these and of the largest logit: above so many times their running median
  double gradient = 0;         // of a gradient norm: above so many times its running median
  double entropy = 0;          // of a router, normalised: below
  int64_t idle = 0;            // an expert that no token chose in so many measurements in a row
  std::set<std::string> stop;  // the rules whose alarms end the run
};

// Prompts that the run's weights continue meanwhile.
struct SampleRules {
  int64_t every = 0;  // steps; 0: never
  std::vector<std::string> prompts;
  int64_t tokens = 0;  // of an answer, at most
  double temperature = 0;
};

struct RunConfig {
  std::string model_path;  // an existing MODEL to go on from; empty: `model_json` describes a new one
  std::string model_json;  // [model] as config.json would say it
  std::vector<CorpusFile> train_files, validation_files;
  std::string tokenizer;  // folder or tokenizer.json
  int64_t steps = 0;
  int64_t tokens_per_step = 0;            // at first
  std::vector<BatchRamp> batch_ramp;      // ascending
  std::map<std::string, double> weights;  // of sources; empty: those of the prepared data
  std::vector<DataStage> stages;          // ascending
  SpikeRule spike;
  int64_t sequence = 0;    // tokens of a packed row
  int64_t micro_rows = 0;  // rows of one forward and backward
  double lr = 0;
  Schedule schedule = Schedule::cosine;
  int64_t warmup = 0;  // steps, or tokens
  int64_t decay = 0;   // steps, or tokens
  bool warmup_in_tokens = false, decay_in_tokens = false;
  double final_lr = 0;  // where the decay ends
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, clip = 1;
  bool recompute = false;  // layers keep only their input, and backward runs them again; changes no bit
  uint64_t seed = 0;
  DType dtype = DType::f32;    // of weights and activations: f32 or bf16; the master and sums are f32
  int threads = 0;             // 0: all cores
  DeviceId device;             // what the steps run on
  bool deterministic = false;  // on CUDA: Exec::in_order
  int64_t save_every = 0;      // steps; 0: at the end alone
  int64_t keep = 2;            // newest checkpoints that stay
  int64_t validate_every = 0;  // steps; 0: at the end alone
  int64_t health_every = 0;    // steps; 0: health is not measured
  AlarmRules alarm;
  SampleRules sample;
  bool tensorboard = true;  // events beside metrics.jsonl
  double capacity = 0;      // an expert's share of a window's choices, 1 where all are balanced; 0: dropless
  int64_t window = 0;       // tokens over which capacity and auxiliary loss count; 0: one packed row
  AuxForm aux_form = AuxForm::report;
  double aux = 0.01;  // alpha of form report, coefficient of form transformers
  double z = 0;       // of the z-loss
  int64_t lanes = 1;
  std::string run_dir;
  std::string resolved;  // the whole configuration as TOML, defaults and --set included
  std::string decisive;  // JSON object, `section.key` to value: what results depend on, but for a new model's [model]

  // Checkpoints before the last step.
  bool saves_meanwhile() const { return save_every > 0 && save_every < steps; }
  int64_t tokens_in(int64_t step) const;       // of this step, counted from 1
  int64_t tokens_through(int64_t step) const;  // of steps 1 to this one
  int64_t rows_through(int64_t step) const { return tokens_through(step) / sequence; }
  int64_t largest_batch() const;  // tokens of the largest step
  int thread_count() const;
  bool in_order() const { return deterministic || !device.is_cuda(); }
};

// settings: `key=value` as given to --set; they override the file. Throws not_found, invalid_input naming the key and
// what was expected, unsupported for what a later version will do.
RunConfig read_run_config(const std::filesystem::path& file, const std::vector<std::string>& settings);

// All keys of a TOML file as a JSON object, `section.key` to value, unjudged. Throws not_found, invalid_input.
std::string keys_of(const std::filesystem::path& file);

// Learning rate of a step counted from 1: linear warm-up, then constant; cosine: to final_lr over `decay` steps; wsd
// and exponential: constant, then over the last `decay` steps linearly towards final_lr, one step short of it, or
// exponentially to it (the report's form). Where warmup or decay counts tokens, a step stands at those trained on when
// it is done, whatever its batch.
double learning_rate(const RunConfig& run, int64_t step);

}  // namespace fulgur
