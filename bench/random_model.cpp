#include "bench/random_model.h"

#include <map>

#include "base/random.h"
#include "device/transfer.h"
#include "model/initialise.h"
#include "quant/int8.h"

namespace fulgur::bench {

ModelConfig model_shape(const RunConfig& run) {
  if (run.model_json.empty())
    fail(ErrorKind::invalid_input,
         "[model] names " + run.model_path + ": bench expects the numbers of config.json there");
  return parse_config(run.model_json, "[model]");
}

namespace {

void put(Stream& stream, Tensor to, const void* from) {
  send(stream, to, from);
  stream.synchronize();
}

// f32 numbers as the parameter holds them; scales: its own, where that is i8.
void fill(Stream& stream, const Parameter& p, const Parameter* scales, const float* numbers) {
  std::vector<std::byte> stored(size_t(p.view.bytes()));
  if (!scales) {
    convert_elements(stored.data(), p.view.dtype, reinterpret_cast<const std::byte*>(numbers), DType::f32,
                     p.view.count());
    return put(stream, p.view, stored.data());
  }
  const MatrixToQuantise matrix{numbers, p.view.dim(0), p.view.dim(1)};
  std::vector<float> steps(size_t(scales->view.count()));
  quantise_scales(stream.threads(), matrix, p.checkpoint_name, steps.data());
  quantise_values(stream.threads(), matrix, steps.data(), reinterpret_cast<int8_t*>(stored.data()));
  put(stream, p.view, stored.data()), put(stream, scales->view, steps.data());
}

}  // namespace

RandomModel::RandomModel(const ModelConfig& shape, DType type, int threads, DeviceId device)
    : config(shape), loaded(allocate_weights(shape, type, device)), weights(loaded.weights) {
  Stream stream(device, threads);
  std::map<std::string_view, const Parameter*> scales;
  for (const Parameter& p : weights.parameters)
    if (p.kind == ParameterKind::scale) scales.emplace(p.checkpoint_name, &p);
  for (const Parameter& p : weights.parameters) {
    if (p.kind == ParameterKind::scale) continue;
    const Buffer memory(size_t(p.view.count()) * sizeof(float), Purpose::workspace);
    Parameter drawn = p;
    drawn.view.data = memory.data(), drawn.view.dtype = DType::f32, drawn.view.device = {};
    ModelWeights one;
    one.parameters = {drawn};
    initialise(config, one, 1, stream.threads());
    fill(stream, p, p.view.dtype == DType::i8 ? scales.at(p.checkpoint_name + "_scale") : nullptr,
         drawn.view.elements<float>());
  }
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
