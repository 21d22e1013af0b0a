#include "generate/current_state.h"

#include <cmath>

#include "device/transfer.h"
#include "files/safetensors.h"
#include "model/weights.h"

namespace fulgur {

std::vector<double> current_state(const ModelConfig& config, const ModelWeights& weights, const StatePool& pool,
                                  const SequenceState& state, int64_t layer) {
  const int64_t d = config.head_dim, rows = state.position() % kGrid;
  Stream stream(weights.flat.device);
  const std::vector<float> stored = download<float>(stream, pool.state()[size_t(layer)].at(state.slot()));
  const std::vector<float> decay =
      download<float>(stream, std::get<LightningWeights>(weights.layers[size_t(layer)].attention).decay);
  // What the tail holds: part 0 k, part 1 v.
  const Tensor tails = pool.tail()[size_t(layer)].rows(state.slot(), state.slot() + 1);
  std::vector<float> tail(size_t(tails.count()));
  const std::vector<std::byte> tail_bytes = bytes_of(stream, tails);
  convert_elements(reinterpret_cast<std::byte*>(tail.data()), DType::f32, tail_bytes.data(), tails.dtype,
                   tails.count());
  const auto held = [&](int64_t head, int64_t part, int64_t row, int64_t column) {
    return double(tail[size_t(((head * 2 + part) * kGrid + row) * d + column)]);
  };
  std::vector<double> whole;
  for (int64_t h = 0; h < config.heads; ++h) {
    const auto decayed = [&](int64_t steps) { return std::exp(-double(decay[size_t(h)]) * double(steps)); };
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j < d; ++j) {
        double sum = decayed(rows) * double(stored[size_t((h * d + i) * d + j)]);
        for (int64_t r = 0; r < rows; ++r) sum += decayed(rows - 1 - r) * held(h, 0, r, i) * held(h, 1, r, j);
        whole.push_back(sum);
      }
  }
  return whole;
}

}  // namespace fulgur
