#include "bench/random_model.h"

#include "base/random.h"
#include "model/initialise.h"

namespace fulgur::bench {

ModelConfig model_shape(const RunConfig& run) {
  if (run.model_json.empty())
    fail(ErrorKind::invalid_input,
         "[model] names " + run.model_path + ": bench expects the numbers of config.json there");
  return parse_config(run.model_json, "[model]");
}

RandomModel::RandomModel(const ModelConfig& shape, DType type, Threads& threads)
    : config(shape),
      memory(size_t(flat_elements(shape) * byte_size(type)), Purpose::weights),
      decay_memory(size_t(shape.layers * shape.heads * byte_size(wide(type))), Purpose::weights) {
  weights = views_of(config, memory.tensor(type, {flat_elements(config)}));
  fill_decays(config, weights, decay_memory.tensor(wide(type), {config.layers, config.heads}));
  initialise(config, weights, 1, threads);
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
