// A model of a configuration's shape with random weights, and random tokens for it.
#pragma once
#include <string>
#include <vector>

#include "data/packed_rows.h"
#include "model/checkpoint.h"
#include "train/run_config.h"

namespace fulgur::bench {

// [model] of a run's configuration. Throws invalid_input where it names a MODEL instead of a shape.
ModelConfig model_shape(const RunConfig& run);

struct RandomModel {
  ModelConfig config;
  LoadedWeights loaded;
  ModelWeights weights;

  // type: f32, or bf16, which is drawn in f32 and rounded; int8 experts are quantised from the same numbers. Throws
  // out_of_memory.
  RandomModel(const ModelConfig& shape, DType type, int threads, DeviceId device = {});
};

std::vector<int32_t> random_tokens(const ModelConfig& config, int64_t count, uint64_t seed);

// Documents of `tokens` tokens each.
TokenizedDocuments random_documents(const ModelConfig& config, int64_t count, int64_t tokens);

}  // namespace fulgur::bench
