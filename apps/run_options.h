// Options that every command shares which runs a model, and the model they load.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"

namespace fulgur {

struct RunOptions {
  std::string model, device = "cpu", dtype = "f32";
  int threads = 0;
  int64_t rotary_dim = 0;

  // Adds MODEL, --device, --dtype, --threads and --rotary-dim.
  void add_to(CLI::App& command);
  int thread_count() const;
};

// A model in memory: its config outlives the weights' views.
struct LoadedModel {
  ModelConfig config;
  LoadedWeights loaded;

  const ModelWeights& weights() const { return loaded.weights; }
};
LoadedModel load_model(const RunOptions& options);

// Token ids from a file or a list: `1,2,3` or JSON, a list or a list of lists (packed documents). Each id is judged
// against the vocabulary.
std::vector<std::vector<int32_t>> parse_ids(const std::string& file_or_list, int64_t vocab_size);

}  // namespace fulgur
