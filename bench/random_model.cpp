#include "bench/random_model.h"

#include "base/random.h"
#include "model/initialise.h"
#include "train/train_step.h"

namespace fulgur::bench {

ModelConfig model_shape(const RunConfig& run) {
  if (run.model_json.empty())
    fail(ErrorKind::invalid_input,
         "[model] names " + run.model_path + ": bench expects the numbers of config.json there");
  return parse_config(run.model_json, "[model]");
}

RandomModel::RandomModel(const ModelConfig& shape, DType type, int threads, DeviceId device)
    : config(shape),
      memory(size_t(flat_elements(shape) * byte_size(type)), Purpose::weights, device),
      decay_memory(size_t(shape.layers * shape.heads * byte_size(wide(type))), Purpose::weights, device) {
  Stream stream(device, threads);
  TrainingState state;
  state.weights = views_of(config, memory.tensor(type, {flat_elements(config)}));
  fill_decays(config, state.weights, decay_memory.tensor(wide(type), {config.layers, config.heads}));
  const Buffer drawn(type == DType::f32 ? 0 : size_t(flat_elements(config)) * sizeof(float), Purpose::workspace,
                     device);
  state.master = type == DType::f32 ? state.weights.flat : drawn.tensor(DType::f32, {flat_elements(config)});
  ModelWeights master = views_of(config, state.master);
  initialise(config, master, 1, stream.threads());
  round_master(stream, state);
  weights = std::move(state.weights);
}

std::vector<int32_t> random_tokens(const ModelConfig& config, int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(int32_t(philox(seed, uint64_t(i), 0)[0] % uint32_t(config.vocab_size)));
  return tokens;
}

TokenizedDocuments random_documents(const ModelConfig& config, int64_t count, int64_t tokens) {
  TokenizedDocuments documents;
  for (int64_t d = 0; d < count; ++d) documents.add(random_tokens(config, tokens, uint64_t(d) + 1));
  return documents;
}

}  // namespace fulgur::bench
