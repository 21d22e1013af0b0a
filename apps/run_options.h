// Options that every command shares which runs a model, and the model they load.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"

namespace fulgur {

struct RunOptions {
  std::string model, device = "auto", dtype;  // dtype empty: the command's default
  int threads = 0;
  int64_t rotary_dim = 0;
  bool deterministic = false;

  // Adds MODEL, --device, --deterministic, --dtype, --threads and --rotary-dim. default_dtype: for the help.
  void add_to(CLI::App& command, const std::string& default_dtype);
  int thread_count() const;
  // What --device says. Throws as device_named.
  DeviceId where() const;
  bool in_order() const { return deterministic || !where().is_cuda(); }
  // What was asked for, else `fallback`. Throws invalid_input for what is neither f32 nor bf16.
  DType type(DType fallback) const;
};

// bf16 on a GPU and where the CPU multiplies it, else f32: what commands run in that do not compare numbers.
DType fastest_type(DeviceId device = {});
inline constexpr const char* kFastestType = "bf16 on a GPU and where the CPU multiplies it, else f32";

// Adds --device and --deterministic.
void add_device_options(CLI::App& command, std::string& device, bool& deterministic);

// Adds --trace F (bench/trace.h).
void add_trace_option(CLI::App& command, std::string& path);

// A model in memory: its config outlives the weights' views.
struct LoadedModel {
  ModelConfig config;
  LoadedWeights loaded;

  const ModelWeights& weights() const { return loaded.weights; }
};
LoadedModel load_model(const RunOptions& options, DType run_type);

// Token ids from a file or a list: `1,2,3` or JSON, a list or a list of lists (packed documents). Each id is judged
// against the vocabulary.
std::vector<std::vector<int32_t>> parse_ids(const std::string& file_or_list, int64_t vocab_size);

}  // namespace fulgur
